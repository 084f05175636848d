"""Types, hooks and utilities used by all other packages."""
