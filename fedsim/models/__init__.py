"""Model families: one file each, plain `torch.nn` modules."""
