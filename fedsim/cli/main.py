"""The command line. A user's mistake ends with a clear paragraph and exit code 2, without a traceback."""

from __future__ import annotations

import errno
import sys

from fedsim.core import process

process.prepare()

from fedsim.cli.commands import (  # noqa: F401 - each adds its command
    audit,
    bench,
    check_mechanism,
    compare,
    demo,
    doctor,
    expect,
    export,
    generate,
    guard,
    init,
    listing,
    new,
    release,
    report,
    run,
    show,
    sweep,
    tune,
    which,
)
from fedsim.cli.commands._console import app, complain
from fedsim.core.errors import FedsimError

_OF_THE_PLACE = (errno.EACCES, errno.EDQUOT, errno.ENAMETOOLONG, errno.ENOSPC, errno.EPERM, errno.EROFS)


def main() -> None:
    """Run the command line."""
    process.offer_working_folder()
    try:
        app()
    except FedsimError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in _OF_THE_PLACE:
            raise
        complain(f"{error.filename or 'a file'}: {error.strerror}. Choose another path, or free disk space.")
        sys.exit(FedsimError.exit_code)


if __name__ == "__main__":
    main()
