"""Attacks that separate the inputs of a batch that a linear layer's gradient mixes."""
