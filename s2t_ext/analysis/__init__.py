"""Studies of a model and its teacher: calibration and local sufficiency."""
