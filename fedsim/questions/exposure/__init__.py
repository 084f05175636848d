"""Question `exposure`: memorisation of planted secrets by a trained language model."""
