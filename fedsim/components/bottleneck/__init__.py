"""Hook bottleneck: replaces an activation by a discrete or narrow representation."""
