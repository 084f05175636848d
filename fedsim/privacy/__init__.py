"""Differential privacy: what a mechanism guarantees, what that bounds, and whether a run contradicts it."""
