"""Ways to take K candidates through the model in one step."""
