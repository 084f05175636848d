"""What all single sources say when their files are missing."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from fedsim.core.errors import MissingExtra
from fedsim.data.digits import DigitsConfig, digits
from fedsim.data.fashion_mnist import FashionMnistConfig, fashion_mnist
from fedsim.data.foolbox_samples import FoolboxSamplesConfig, foolbox_samples
from fedsim.data.mnist5k import Mnist5kConfig, mnist5k
from fedsim.data.spoken_digits import SpokenDigitsConfig, spoken_digits


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: mnist5k(Mnist5kConfig()), "pip install 'fedsim-privacy[data]'"),
        (lambda: digits(DigitsConfig()), "pip install 'fedsim-privacy[data]'"),
        (lambda: foolbox_samples(FoolboxSamplesConfig()), "pip install 'fedsim-privacy[photographs]'"),
        (lambda: fashion_mnist(FashionMnistConfig(path=Path("nowhere"))), "apt-get install dataset-fashion-mnist"),
        (
            lambda: spoken_digits(SpokenDigitsConfig(path=Path("nowhere"), voices=("june-fr",))),
            "apt-get install --no-install-recommends asterisk-core-sounds-fr-wav",
        ),
    ],
)
def test_a_missing_set_names_the_line_that_installs_it(make: Any, line: str) -> None:
    with pytest.raises(MissingExtra) as caught:
        make()
    assert line in str(caught.value)
