"""Attacks that recover a client's rows from the boosted trees that it sends."""
