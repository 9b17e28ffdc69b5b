"""What `collect` is made of: where prompts come from, answers without a teacher."""
