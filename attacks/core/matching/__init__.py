"""Gradient matching: search for inputs whose gradient equals the client's. Base classes of all matching attacks."""
