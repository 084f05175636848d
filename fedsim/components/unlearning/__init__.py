"""Hook unlearning: removes examples from a trained model, and states what the server observes of it."""
