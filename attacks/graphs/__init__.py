"""Attacks that recover graphs from the gradients of graph networks."""
