"""Gradient-inversion attacks on updates of several local steps."""
