"""Hook bottleneck."""
