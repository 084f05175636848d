"""Where truth and guess meet."""
