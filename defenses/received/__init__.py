"""Defenses that check the received weights before training."""
