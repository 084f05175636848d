"""Defenses that bound the norm of the update."""
