"""Targets from a gradient whose inputs are known, whatever the loss."""
