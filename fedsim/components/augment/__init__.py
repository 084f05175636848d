"""Hook augment: changes each batch before the forward pass."""
