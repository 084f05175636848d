"""Private or undocumented names of other packages: the only modules of fedsim that import them.

A release of such a package may remove or change these names. `make test-versions` runs the tests of this folder on the
oldest and on the newest version that `pyproject.toml` allows.
"""
