"""Attacks on generation traces: infer the prompt, membership, or planted secrets."""
