"""Aggregation rules of the server, one module each."""
