"""Protect rows in the boosted trees that a client sends."""
