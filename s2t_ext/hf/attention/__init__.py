"""Attention of candidate forwards: who sees whom, and how it is computed."""
