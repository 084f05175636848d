"""Kinds of attention, one a file."""
