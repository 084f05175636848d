"""Clients, server, wire, and the engines that run them."""
