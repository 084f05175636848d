"""Question `generation`: leakage of prompts and training texts through generated texts and their traces."""
