"""Attacks: a folder per family, a file per method. A leading underscore marks parts that several methods share."""
