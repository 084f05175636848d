"""Attacks on vertical federated learning: labels from returned gradients, columns from cut-layer activations."""
