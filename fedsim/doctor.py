"""What is installed, which data is present, and how to get the rest."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from fedsim import registry
from fedsim.errors import FedsimError
from fedsim.types import Dataset

_REQUIRED = ("flwr", "torch", "torchvision", "opacus", "numpy", "matplotlib", "pydantic", "scipy", "pytorch-msssim")


class Finding(NamedTuple):
    """One thing that was looked at; `advice` says how to get it when it is not there."""

    group: str
    name: str
    present: bool
    detail: str
    advice: str


def examine() -> Iterator[Finding]:
    """Yield what was found, package by package and data set by data set."""
    for package in _REQUIRED:
        yield _package(package)
    for name, method in registry.methods("dataset").items():
        yield _data(name, method)


def _package(name: str) -> Finding:
    try:
        return Finding("package", name, True, version(name), "")
    except PackageNotFoundError:
        return Finding("package", name, False, "", "pip install fedsim-privacy")


def _data(name: str, method: registry.Method) -> Finding:
    try:
        config = method.config.model_validate({})
    except ValueError:
        return Finding("data", name, True, "needs a path of yours", f"fedsim show {name}")
    try:
        dataset = method.make(config)
    except FedsimError as error:
        what, _, advice = str(error).partition("\n")
        return Finding("data", name, False, what, advice.strip())
    assert isinstance(dataset, Dataset)
    return Finding("data", name, True, f"{len(dataset.train)} training, {len(dataset.test)} test examples", "")
