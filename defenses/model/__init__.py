"""Defenses that change the model."""
