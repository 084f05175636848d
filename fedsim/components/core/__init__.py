"""What components of several hooks share: low-rank factors, dropped blocks, schedules of layers, prefixes, pads."""
