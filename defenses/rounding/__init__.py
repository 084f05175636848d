"""Round the update to fewer bits."""
