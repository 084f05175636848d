"""Hide labels in what is sent back across the cut of a split model."""
