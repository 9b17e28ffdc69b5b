"""The embedded default: miniature student, teacher and selector, and the problems they solve."""

from pathlib import Path

#: The models that ship with the package: the folders `student`, `teacher` and `selector`.
ASSETS = Path(__file__).parent / "assets"
