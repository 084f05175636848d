"""What authors of attacks share: preconditions, labels, layer inputs, masks, gradient distances, results."""
