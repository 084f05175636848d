"""Membership inference attacks: score how likely an example was trained on."""
