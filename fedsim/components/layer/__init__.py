"""Hook layer."""
