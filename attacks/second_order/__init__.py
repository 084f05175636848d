"""Solve the equations of an update by their derivatives."""
