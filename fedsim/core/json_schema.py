"""Version of the record format, in a module of its own so that it loads without other imports."""

SCHEMA_VERSION = 3
