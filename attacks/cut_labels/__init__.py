"""Label inference attacks in vertical FL, mostly from the gradients returned at the cut."""
