"""Hook decoder: writes a text with a trained model, one step after the other."""
