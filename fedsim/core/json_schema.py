"""The version of what records hold. It stands alone so that a reader of first bytes loads nothing else."""

SCHEMA_VERSION = 2
