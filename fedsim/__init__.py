"""fedsim: what does a federated-learning server learn about its clients' data, and what does it cost to stop it?"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fedsim-privacy")
except PackageNotFoundError:
    __version__ = "0+unknown"
