"""Attacks on updates of several local steps."""
