"""Bound the norm of the update."""
