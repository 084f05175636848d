"""Hook mitigation: changes the observable trace of a generation, not its text."""
