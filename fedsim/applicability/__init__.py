"""Attacks that apply to a user's model, found without attacking: `fedsim which` and `fedsim.which`."""
