"""Experiments that measure fedsim, each a file: ``python -m benchmarks --list``."""
