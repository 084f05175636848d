"""Change the model."""
