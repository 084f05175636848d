"""Rules by which the server combines many updates into one, one rule a file."""
