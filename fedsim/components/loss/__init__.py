"""Hook loss."""
