"""The embedded default: miniature student, teacher and selector, and the problems they solve."""
