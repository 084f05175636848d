"""Data sets: one file each; `partition` shares one out among clients."""
