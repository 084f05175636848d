"""Which task a data set gets that names none, and what a task says of data that it cannot use."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedsim.core.types import Batch, Dataset
from fedsim.tasks.core.fitting import lacks_argument, refuses_classes, refuses_inputs, usual_task


def test_every_kind_of_data_has_its_usual_task(samples: dict[str, Dataset]) -> None:
    nameless = {name: data for name, data in samples.items() if not data.task}
    assert {name: usual_task(data) for name, data in nameless.items()} == {name: name for name in nameless}


def test_classes_are_told_without_importing_the_tasks(
    samples: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(kind: str) -> None:
        raise AssertionError(f"every {kind} is imported")

    monkeypatch.setattr("fedsim.core.registry.methods", refuse)
    assert usual_task(samples["classification"]) == "classification"
    assert usual_task(samples["tabular"]) == "tabular"
    with pytest.raises(AssertionError, match="every task"):
        usual_task(samples["regression"])


@pytest.mark.parametrize("tokens", [False, True])
def test_tokens_and_numbers_are_told_apart(tokens: bool, samples: dict[str, Dataset]) -> None:
    fits, other = ("tagging", "classification") if tokens else ("classification", "tagging")
    assert refuses_inputs(samples[fits], tokens=tokens) is None
    assert refuses_inputs(samples[other], tokens=tokens) == (
        "it reads tokens, and the examples are numbers" if tokens else "it reads numbers, and the examples are tokens"
    )


def test_labels_of_tokens_and_of_examples_are_told_apart(samples: dict[str, Dataset]) -> None:
    assert refuses_classes(samples["tagging"], of_tokens=True) is None
    assert refuses_classes(samples["classification"], of_tokens=False) is None
    assert "a label for every token, and labels have shape (20,)" in (
        refuses_classes(samples["classification"], of_tokens=True) or ""
    )
    whole = samples["classification"]
    fractions = replace(whole, train=Batch(whole.train.inputs, torch.rand(20)))
    assert "numbers with a fraction" in (refuses_classes(fractions, of_tokens=False) or "")


def test_an_argument_is_taken_by_its_name_or_with_all_others() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor, noise: Tensor) -> Tensor:
            return x

    class Open(nn.Module):
        def forward(self, x: Tensor, **given: Tensor) -> Tensor:
            return x

    assert not lacks_argument(Named(), "noise")
    assert lacks_argument(Named(), "labels")
    assert not lacks_argument(Open(), "labels")
