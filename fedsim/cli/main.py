"""The command line. A user's mistake ends with one clear paragraph and exit code 2, never a traceback."""

from __future__ import annotations

import sys

from fedsim.core import process

process.prepare()

from fedsim.cli.commands import (  # noqa: F401 - each adds its command
    audit,
    compare,
    demo,
    doctor,
    expect,
    export,
    listing,
    new,
    report,
    run,
    show,
    sweep,
    tune,
)
from fedsim.cli.commands._console import app, complain
from fedsim.core.errors import FedsimError


def main() -> None:
    """Run the command line."""
    process.find_own_modules()
    try:
        app()
    except FedsimError as error:
        complain(str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
