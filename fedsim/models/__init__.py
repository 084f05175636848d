"""Model families, one module each, built from plain `torch.nn` modules."""
