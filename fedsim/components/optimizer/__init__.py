"""Hook optimizer: turns gradients into steps of the weights."""
