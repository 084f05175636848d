"""Priors on inputs, one per file."""
