"""Defenses, one a file, in folders by their place in a client's step."""
