"""Who chooses at a triggered step: the selector, the teacher, or nobody."""
