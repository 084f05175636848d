"""Question `attributes`: inference of a property of a client's data from its updates."""
