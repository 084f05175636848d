"""Solve for one input without a search."""
