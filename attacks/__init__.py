"""Attacks: one file each. Files whose name starts with an underscore hold parts that several attacks share.

`reconstruct` runs one on gradients from anywhere.
"""

from attacks.core.reconstruct import reconstruct

__all__ = ["reconstruct"]
