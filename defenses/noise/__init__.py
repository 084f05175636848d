"""Add noise to the update."""
