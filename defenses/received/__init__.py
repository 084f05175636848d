"""Place received: look at the weights that the server sent, before training on them."""
