"""User code of a scenario cannot end the process, and the host's `os._exit` is restored."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.core.errors import FedsimError
from fedsim.scenario.user_code import forbid_exit


@pytest.mark.parametrize(("leave", "code"), [(lambda: os._exit(7), 7), (lambda: sys.exit(3), 3)])
def test_an_exit_is_an_error_with_the_code_and_the_line(leave: Callable[[], None], code: int) -> None:
    place = rf"'f' ended the process with exit code {code} \({Path(__file__).name}, line"
    with pytest.raises(FedsimError, match=place), forbid_exit("'f'"):
        leave()


def test_afterwards_the_process_can_end_again() -> None:
    before = os._exit
    with forbid_exit("'f'"):
        assert os._exit is not before
    assert os._exit is before
    with pytest.raises(SystemExit):
        sys.exit(3)
