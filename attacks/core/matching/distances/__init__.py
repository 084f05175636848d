"""Gradient distances, one per file."""
