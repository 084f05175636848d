"""Benchmarks that are commands: what a decoder loses by writing several tokens at once, where it must not."""
