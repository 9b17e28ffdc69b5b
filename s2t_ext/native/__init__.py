"""The native libraries: loading them, choosing the instruction set, saying what is there."""
