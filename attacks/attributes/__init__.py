"""Say which value an attribute of the data behind an update has."""
