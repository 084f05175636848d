"""Separate the inputs of a batch that a linear layer mixed."""
