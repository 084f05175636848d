"""Threat model and scoring: the attacker's observation, the ground truth, and the scores of guesses."""
