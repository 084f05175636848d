"""Search for inputs whose gradient equals the client's: what all attacks that match gradients share."""
