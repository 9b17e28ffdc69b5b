"""Measuring whole policies on tasks: tasks, grading, policies, statistics, reports."""
