"""Attacks: one folder per family, one file per method. A leading underscore marks parts that several methods share.

`fedsim.reconstruct` runs one on gradients from anywhere.
"""

from fedsim.core.reconstruct import reconstruct

__all__ = ["reconstruct"]
