"""A site's guard: runs third-party apps at the client's node, and privatises their replies."""
