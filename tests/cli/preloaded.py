"""What most commands import, for the server that forks them.

Not the console, which measures its width when it is loaded. Nothing is discovered: methods that are installed are found
by the command that was forked, but not those of a working folder's packages `attacks` and `defenses`.
"""

import importlib
import pkgutil

import jinja2  # noqa: F401
import matplotlib.backends.backend_svg
import matplotlib.figure  # noqa: F401

import fedsim.api
import fedsim.demo.live
import fedsim.report.sweep  # noqa: F401
from fedsim.report import drawing

drawing.render_figure = lambda _figure: (b"PNG", b"<svg/>")  # as in tests that do not look at figures

_METHODS = ("aggregators", "components", "data", "metrics", "models", "tasks")
_HOMES = ("attacks", "defenses", "fedsim.experiment", "fedsim.threat", *(f"fedsim.{own}" for own in _METHODS))

for _home in _HOMES:
    for _found in pkgutil.walk_packages(importlib.import_module(_home).__path__, f"{_home}."):
        importlib.import_module(_found.name)
