"""Attacks that recover codes, keys and inputs from the gradients of codebooks and key-value bottlenecks."""
