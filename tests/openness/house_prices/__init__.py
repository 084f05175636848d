"""A package of somebody else's: a table of numbers, what is learnt from it, two metrics, a component and an attack."""

from house_prices import attack, component, data, metrics, task

__all__ = ["attack", "component", "data", "metrics", "task"]
