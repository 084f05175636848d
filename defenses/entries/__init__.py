"""Leave out entries of the update."""
