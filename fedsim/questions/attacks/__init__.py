"""Question `attacks`: reconstruction of a client's batch from its update."""
