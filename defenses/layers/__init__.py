"""Defenses that change the gradients of chosen layers."""
