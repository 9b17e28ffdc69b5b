"""What leaves the house: selector cards, and model folders that decode by themselves."""
