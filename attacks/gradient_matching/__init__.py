"""Gradient matching attacks: search for inputs whose gradient equals the client's."""
