"""Rules by which the server makes one update of many, one rule a file."""
