"""Attacks: one folder per family, one file per method. A leading underscore marks parts that several methods share."""
