"""Read whole graphs from the gradients of networks of graphs."""
