"""Read a party's inputs from what it sends across the cut of a split model."""
