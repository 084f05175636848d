"""Defenses that protect rows in the boosted trees that a client sends."""
