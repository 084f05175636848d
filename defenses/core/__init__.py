"""What defenses of several places share."""
