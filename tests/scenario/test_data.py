"""Which examples are in which batch: passes, rests, and independent draws."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.types import Batch, Dataset, InputSpec
from fedsim.scenario import Choice, Scenario
from fedsim.scenario.clients import Federation
from fedsim.scenario.data import EXAMPLE, Data, build_data, load_dataset

Build = Callable[..., Scenario]


def data(*sizes: int, **federation: Any) -> Data:
    """Clients that own so many of the examples, in order; an example's label is its number."""
    numbers = torch.arange(sum(sizes))
    batch = Batch(numbers[:, None].float(), numbers)
    spec = InputSpec((1,), len(numbers), (0.0,), (1.0,))
    settings = Federation.model_validate({"algorithm": "fedavg", **federation})
    return Data(Dataset(batch, batch, spec, ()), tuple(numbers.split(list(sizes))), settings, 7)


def labels(own: Data, round_: int = 1, client: int = 0) -> list[list[int]]:
    return [batch.labels.tolist() for batch in own.batches(round_, client)]


def flat(batches: list[list[int]]) -> list[int]:
    return [label for batch in batches for label in batch]


def test_passes_hold_every_example_once_and_keep_their_rest() -> None:
    own = data(7, 5, local_epochs=2, batch_size=3)
    for client, share in ((0, range(7)), (1, range(7, 12))):
        found = labels(own, client=client)
        assert len(found) == own.steps(client)
        half = len(found) // 2
        for one in (found[:half], found[half:]):
            assert sorted(flat(one)) == [*share]
            assert [len(batch) for batch in one[:-1]] == [3] * (half - 1)


def test_steps_leave_the_short_rest_of_a_pass_out() -> None:
    found = labels(data(7, local_steps=5, batch_size=3))
    assert [len(batch) for batch in found] == [3] * 5
    for first, second in ((0, 2), (2, 4)):
        assert len({*flat(found[first:second])}) == 6, "no example twice in a pass"


def test_a_pass_without_a_rest_ends_with_its_last_example() -> None:
    found = labels(data(6, local_steps=4, batch_size=3))
    assert [sorted(flat(found[first : first + 2])) for first in (0, 2)] == [[*range(6)]] * 2


def test_batches_depend_on_seed_round_and_client_alone() -> None:
    own = data(7, 7, local_steps=2, batch_size=3)
    assert labels(own) == labels(own)
    assert labels(own) != labels(own, round_=2)
    assert [[n + 7 for n in batch] for batch in labels(own)] != labels(own, client=1)
    assert labels(own) != labels(replace(own, seed=8))


@pytest.mark.paper_step("dp-sgd", "Poisson sampling of the batch")
def test_under_poisson_sampling_each_example_is_in_each_batch_by_itself() -> None:
    own = data(8, local_steps=2000, batch_size=2, sampling="poisson")
    found = labels(own)
    counts = torch.bincount(torch.tensor(flat(found)), minlength=8) / len(found)
    assert ((counts - 0.25).abs() < 0.04).all()  # 4 standard errors of 2000 draws
    assert [] in found
    assert all(len({*batch}) == len(batch) for batch in found)
    whole = labels(data(3, local_steps=2, batch_size=9, sampling="poisson"))
    assert [sorted(batch) for batch in whole] == [[0, 1, 2]] * 2


def test_the_servers_own_examples_are_the_test_set_unless_clients_train_on_it() -> None:
    own = data(4)
    assert len(own.public) == 0
    other = Batch(torch.full((2, 1), -1.0), torch.zeros(2, dtype=torch.long))
    assert replace(own, dataset=replace(own.dataset, test=other)).public is other.inputs


def test_a_client_that_owns_less_than_a_batch_is_named(scenario: Build) -> None:
    small = {"scheme": "resampled", "examples_per_client": 3}
    with pytest.raises(ScenarioError, match="batch_size is 4, but client 0 owns 3 examples"):
        build_data(scenario(partition=small, federation={"batch_size": 4}))
    passes = {"batch_size": 4, "algorithm": "fedavg", "local_epochs": 1}
    assert build_data(scenario(partition=small, federation=passes)).sizes == [3]


def test_what_is_no_data_set_is_refused() -> None:
    with pytest.raises(FedsimError, match="returned Counter, expected fedsim.core.types.Dataset"):
        load_dataset(Choice(name="collections:Counter", settings={}))


def test_wrong_labels_leave_shares_and_test_set_as_they_are(scenario: Build) -> None:
    clean, noisy = build_data(scenario()), build_data(scenario(label_noise={"rate": 0.4}))
    assert all(torch.equal(one, other) for one, other in zip(clean.shares, noisy.shares, strict=True))
    assert torch.equal(clean.dataset.test.labels, noisy.dataset.test.labels)
    wrong = clean.dataset.train.labels != noisy.dataset.train.labels
    assert 0.35 < float(wrong.float().mean()) <= 0.4  # of each class, rounded down


def test_what_is_drawn_together_is_in_the_same_batch_the_first_ones_before_the_second() -> None:
    own = replace(data(12, local_epochs=1, batch_size=2), shares=(torch.arange(12).view(6, 2),))
    batches = list(own.numbers_of(1, 0))
    assert [len(chosen) for chosen in batches] == [4, 4, 4]
    assert all(torch.equal(chosen[2:], chosen[:2] + 1) for chosen in batches)
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(12))


def test_a_function_that_returns_no_data_set_is_shown_one_that_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "shown_data.py").write_text(f"{EXAMPLE}\n\ndef wrong():\n    return [1]\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FedsimError, match=r"returned list, expected fedsim.core.types.Dataset. An example:") as error:
        load_dataset(Choice(name="shown_data:wrong"))
    assert str(error.value).endswith(EXAMPLE)
    assert f"```python\n{EXAMPLE}```" in (Path(__file__).parents[2] / "docs" / "scenarios.md").read_text()
    shown = load_dataset(Choice(name="shown_data:my_data"))
    assert (len(shown.train), len(shown.test), shown.spec.shape, shown.spec.classes) == (160, 40, (3, 16, 16), 10)
    pixels = shown.train.inputs[0, 2] * shown.spec.std[2] + shown.spec.mean[2]
    assert 0.0 <= float(pixels.min()) < 0.1
    assert 0.9 < float(pixels.max()) <= 1.0 + 1e-6
