"""Hook unlearning."""
