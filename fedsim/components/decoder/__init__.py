"""Hook decoder."""
