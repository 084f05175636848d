"""Feature inference attacks in vertical FL: recover a party's inputs from its messages at the cut."""
