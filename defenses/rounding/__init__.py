"""Defenses that round the update to fewer bits."""
