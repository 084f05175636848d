"""Change the batch before training."""
