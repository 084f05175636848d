"""Attribute inference attacks: infer the value of an attribute of the data from an update."""
