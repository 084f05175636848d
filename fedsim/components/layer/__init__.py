"""Hook layer: adds or changes layers of the model."""
