"""Attention layouts of transformers, one per file."""
