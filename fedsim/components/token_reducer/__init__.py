"""Hook token_reducer: drops or merges visual tokens inside a forward pass."""
