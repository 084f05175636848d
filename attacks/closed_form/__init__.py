"""Closed-form attacks: recover a single input, or a small batch, without a search."""
