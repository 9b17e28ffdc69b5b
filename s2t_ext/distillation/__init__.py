"""Distillation of S2T-LOCAL selectors: collect labelled trajectories, train on them packed."""
