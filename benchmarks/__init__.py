"""Measurements, each a command that prints rows: ``python -m benchmarks.NAME [--json] [--full]``."""
