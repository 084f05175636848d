"""Differential privacy: guarantees of mechanisms, bounds on attacks that follow, and audits of runs."""
