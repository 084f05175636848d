"""Handwritten digits, trained on by several clients that send private updates."""
