"""Read rows of a client from the boosted trees that it sends."""
