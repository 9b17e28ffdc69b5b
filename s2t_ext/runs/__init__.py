"""Files, folders of runs and statistics: knows no model."""
