"""Nouns, hooks and mechanics that every other package uses."""
