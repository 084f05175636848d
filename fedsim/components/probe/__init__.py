"""Hook probe: reads from hidden states or weights what a model knows."""
