"""The version of what records hold. It stands alone so that a reader of first bytes loads nothing else."""

SCHEMA_VERSION = 2
READABLE = (1, SCHEMA_VERSION)
"""Those that `fedsim.record.conversion` turns into the present one, and this one."""
