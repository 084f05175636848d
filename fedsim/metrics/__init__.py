"""Metrics: comparisons of guesses with the ground truth, with confidence intervals."""
