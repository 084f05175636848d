"""Defenses that clip or add noise to the gradients of single examples."""
