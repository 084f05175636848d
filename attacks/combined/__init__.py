"""Attacks that choose among other attacks, or combine their guesses."""
