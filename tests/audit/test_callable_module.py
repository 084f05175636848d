"""A module that is called stays a module, and tells the signature of its function."""

import inspect
import sys
from types import ModuleType

import pytest

from fedsim.audit.callable_module import call_module


def double(number: int, *, times: int = 1) -> int:
    return 2 * number * times


def test_a_call_of_the_module_is_one_of_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("made_up")
    vars(module)["held"] = 3
    monkeypatch.setitem(sys.modules, "made_up", module)
    call_module("made_up", double)
    assert module(4, times=2) == 16  # type: ignore[operator]
    assert module.held == 3
    assert isinstance(module, ModuleType)
    assert inspect.signature(module) == inspect.signature(double)  # type: ignore[arg-type]
