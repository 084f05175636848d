"""Benchmarks of parallel decoding, and training of the small models that they and scenarios use."""
