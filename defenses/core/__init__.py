"""Code shared by defenses of several places."""
