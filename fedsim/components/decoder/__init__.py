"""Hook decoder: generates a text with a trained model, step by step."""
