"""Defenses, a module each, in folders by their place in a client's step."""
