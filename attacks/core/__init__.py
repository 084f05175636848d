"""Building blocks of attacks: preconditions, labels, layer inputs, masks, unknowns, gradient distances, results."""
