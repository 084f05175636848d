"""Priors on inputs, one a file."""
