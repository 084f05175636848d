"""Code shared by components: low-rank factors, dropped blocks, layer schedules, feature prefixes, pad tokens."""
