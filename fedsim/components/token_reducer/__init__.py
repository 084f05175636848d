"""Hook token_reducer: leaves tokens out, or merges them, inside a forward pass."""
