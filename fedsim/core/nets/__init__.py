"""Facts about torch models: masks, caches, layer calls, losses, gradients and output layers."""
