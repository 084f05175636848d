"""Data sets, one a file; `partition` divides one among clients."""
