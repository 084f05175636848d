"""Defenses that hide labels in the gradients returned at the cut of a split model."""
