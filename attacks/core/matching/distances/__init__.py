"""Distances of gradients, one a file."""
