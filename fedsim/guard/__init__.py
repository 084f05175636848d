"""A site's guard: it runs the apps of other people at the client's node, and covers what they send."""
