"""Handwritten digits, trained on by several clients."""
