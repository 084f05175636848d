"""Hook optimizer."""
