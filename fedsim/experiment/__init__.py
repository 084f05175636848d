"""From a scenario to a record, once or many times."""

from fedsim import _moved
from fedsim.core.renamed import old_names

__getattr__ = old_names(__name__, _moved.ATTRIBUTES[__name__])  # what was here when this was a single file
