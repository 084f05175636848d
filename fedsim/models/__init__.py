"""Model families, one a file, as plain `torch.nn` modules."""
