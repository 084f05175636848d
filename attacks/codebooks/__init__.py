"""Read codes and keys of bottlenecks from which rows of a table have a gradient."""
