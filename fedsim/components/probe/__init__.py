"""Hook probe: infers classes or concepts from hidden states or weights of a model."""
