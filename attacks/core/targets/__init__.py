"""Inference of labels and targets from a gradient with known inputs, for any loss."""
