"""Data sets, one module each; `partition` assigns examples to clients."""
