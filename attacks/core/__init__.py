"""What authors of attacks share: preconditions, labels, layer inputs, masks, unknowns, gradient distances, results."""
