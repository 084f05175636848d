"""Layers whose inputs lie in two spans."""

MNIST = {"name": "mnist5k", "train": 400, "test": 10}
MLP = {"name": "mlp", "width": 512, "depth": 3, "dropout": 0.0}
