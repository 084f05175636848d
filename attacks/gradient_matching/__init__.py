"""Search for inputs whose gradient equals the client's."""
