"""What is known of transformers and PEFT, and nowhere else."""
