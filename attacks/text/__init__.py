"""Read tokens and sentences from the gradients of language models."""
