"""Attacks: a folder a family, a file a method. A leading underscore marks parts that several share.

`fedsim.reconstruct` runs one on gradients from anywhere.
"""

from fedsim.core.reconstruct import reconstruct

__all__ = ["reconstruct"]
