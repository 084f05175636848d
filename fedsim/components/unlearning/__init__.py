"""Hook unlearning: removes examples from a trained model, and states the server's observation."""
