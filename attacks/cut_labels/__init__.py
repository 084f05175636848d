"""Read labels from what comes back across the cut of a split model."""
