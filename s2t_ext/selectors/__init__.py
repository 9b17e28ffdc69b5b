"""Selectors: the score head, its folder on disk, its adapter, its reserved rows."""
