"""Hook mitigation."""
