"""Defenses that drop entries of the update."""
