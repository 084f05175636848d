"""Defenses that change the batch before training."""
