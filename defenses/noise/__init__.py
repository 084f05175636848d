"""Defenses that add noise to the update."""
