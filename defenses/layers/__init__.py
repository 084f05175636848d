"""Change the gradients of chosen layers."""
