"""A seat sees what it was granted, and no label and no other column."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import ScenarioError
from fedsim.questions.vertical.observe import (
    blank_view,
    features_view,
    labels_view,
    with_raw_columns,
    with_shuffled_gradients,
)
from fedsim.questions.vertical.training import CutWire
from tests.questions.vertical.splitting import split_federation
from tests.threat.reached import holds, tensors

FEDERATION = split_federation(count=120)
RUN = FEDERATION.run()
SIZES = (50, 2)


def test_a_party_sees_its_own_columns_messages_and_bottom_alone() -> None:
    view = labels_view(FEDERATION, RUN, "a", 1, frozenset(), SIZES)
    seen = tensors(view)
    assert not any(holds(seen, secret) for secret in (RUN.labels[view.rows], RUN.labels, RUN.parts["b"]))
    assert holds(seen, RUN.parts["a"])
    assert all(set(step.up) == set(step.down) == set(step.bottoms) == {"a"} for step in view.steps)
    assert all(step.top is None for step in view.steps)
    assert len(view.known_rows) == len(view.labels) == 0
    assert view.public is None


def test_where_gradients_are_broadcast_a_party_sees_those_of_all_and_no_other_columns() -> None:
    federation = split_federation(count=120, broadcast=True)
    run = federation.run()
    view = labels_view(federation, run, "b", 1, frozenset(), SIZES)
    assert view.place == (0, 16)
    for seen, step in zip(view.steps, run.epochs[1], strict=True):
        assert torch.equal(seen.down["b"], torch.cat([step.down["a"], step.down["b"]], 1))
        assert set(seen.up) == {"b"}
    assert not holds(tensors(view), run.parts["a"])


def test_what_is_granted_is_there_and_known_labels_are_not_asked_about() -> None:
    view = labels_view(FEDERATION, RUN, "a", 1, frozenset({"top", "few-labels"}), SIZES)
    assert len(view.rows) == 50
    assert torch.equal(view.labels, RUN.labels[view.known_rows])
    assert view.labels.bincount().tolist() == [2, 2]
    assert not torch.isin(view.known_rows, view.rows).any()
    assert all(step.top is not None for step in view.steps)


@pytest.mark.parametrize("rows", [30, 116, 500])
def test_the_attacked_rows_and_their_order_say_nothing_of_labels(rows: int) -> None:
    """An attack that computes the order from the seed would rule out classes whose known rows come later."""
    permuted = FEDERATION.run("labels permuted")
    (attacked, known), (others, _) = (FEDERATION.choose_examples(run, rows, 2) for run in (RUN, permuted))
    assert not torch.equal(RUN.labels, permuted.labels)
    assert torch.equal(attacked, others)
    assert len(attacked) == min(rows, len(RUN.labels) - 4)
    assert attacked.untyped_storage().nbytes() == 8 * len(attacked)
    assert not torch.isin(known, attacked).any()
    assert int(RUN.labels[known].bincount().max()) <= 2


def test_messages_are_found_by_the_example() -> None:
    view = labels_view(FEDERATION, RUN, "a", 1, frozenset(), SIZES)
    step = view.steps[2]
    assert torch.equal(view.sent_activations(step.rows[:3]), step.up["a"][:3])
    assert torch.equal(view.received_gradients(step.rows[:3]), step.down["a"][:3])


def test_the_seat_with_labels_sees_no_columns_of_the_party() -> None:
    view = features_view(FEDERATION, RUN, "a", 1, "embeddings", frozenset(), SIZES)
    seen = tensors(view)
    assert not any(holds(seen, secret) for secret in (RUN.parts["a"], RUN.parts["a"][view.rows]))
    assert all(not step.bottoms and step.top is not None for step in view.steps)
    assert view.columns is None
    assert view.public is None
    assert view.architecture is None
    granted = features_view(
        FEDERATION, RUN, "a", 1, "embeddings", frozenset({"bottom", "public-data", "architecture"}), SIZES
    )
    assert torch.equal(granted.steps[0].bottoms["a"](RUN.parts["a"][granted.steps[0].rows]), granted.steps[0].up["a"])
    assert granted.public is not None
    assert torch.equal(granted.public, FEDERATION.public["a"])
    assert not torch.equal(
        granted.architecture.state_dict()["1.weight"], RUN.model.bottoms["a"].state_dict()["1.weight"]
    )


def test_predictions_come_without_messages() -> None:
    view = features_view(FEDERATION, RUN, "a", 1, "predictions", frozenset({"columns"}), SIZES)
    assert view.steps == []
    assert torch.allclose(view.predictions.sum(1), torch.ones(50).double())
    assert view.columns is not None
    assert torch.equal(view.columns, RUN.parts["b"][view.rows])


def test_before_the_first_step_there_is_nothing_to_see() -> None:
    view = blank_view(FEDERATION, "b", frozenset())
    assert (view.place, view.width, view.steps, len(view.rows)) == ((8, 16), 8, (), 0)


def test_shuffled_gradients_are_the_same_gradients_at_other_examples() -> None:
    view = labels_view(FEDERATION, RUN, "a", 1, frozenset(), SIZES)
    shuffled = with_shuffled_gradients(view, 7)
    before, after = (torch.cat([step.down["a"] for step in one.steps]) for one in (view, shuffled))
    assert not torch.equal(before, after)
    assert torch.equal(before.sum(1).sort().values, after.sum(1).sort().values)
    assert torch.equal(torch.cat([step.rows for step in view.steps]), torch.cat([step.rows for step in shuffled.steps]))


def test_a_bottom_of_raw_columns_passes_them_on() -> None:
    view = with_raw_columns(labels_view(FEDERATION, RUN, "a", 1, frozenset(), SIZES))
    assert torch.equal(view.bottom(RUN.parts["a"]), RUN.parts["a"])


def test_variants_permute_labels_hide_them_and_blind_a_party() -> None:
    permuted = FEDERATION.run("labels permuted")
    assert not torch.equal(permuted.labels, RUN.labels)
    assert torch.equal(permuted.labels.bincount(), RUN.labels.bincount())
    mean = FEDERATION.run("mean label")
    other = replace(
        FEDERATION, dataset=replace(FEDERATION.dataset, train=replace(FEDERATION.dataset.train, labels=permuted.labels))
    )
    again = other.run("mean label")
    assert torch.equal(mean.epochs[1][-1].down["a"], again.epochs[1][-1].down["a"])  # labels do not matter
    assert not FEDERATION.run("input zero", party="b").parts["b"].any()


def test_parties_that_cannot_hold_the_data_are_refused_before_training() -> None:
    strange = split_federation(parties=[{"name": "a", "part": "left"}])
    with pytest.raises(ScenarioError, match=r"vertical\.parties: party 'a' holds a part of images"):
        strange.check()
    numbers = replace(FEDERATION.dataset.train, labels=torch.rand(120))
    with pytest.raises(ScenarioError, match="no single class"):
        replace(FEDERATION, dataset=replace(FEDERATION.dataset, train=numbers)).check()
    with pytest.raises(ScenarioError, match="Change data.name, the parties, or bottom"):
        split_federation(bottom="convolutions").check()


def test_row_numbers_are_not_those_of_the_data_set() -> None:
    """The truth behind a row number of the data set can be looked up without reading a message."""
    train = FEDERATION.dataset.train
    view = labels_view(FEDERATION, RUN, "a", 1, frozenset({"few-labels"}), SIZES)
    assert sorted(FEDERATION.order.tolist()) == list(range(120))
    looked_up = (train.labels[view.rows] == RUN.labels[view.rows]).double().mean()
    assert abs(float(looked_up) - 0.5) < 4 * 0.5 / 50**0.5
    assert not torch.equal(train.labels[view.known_rows], view.labels)
    assert torch.equal(RUN.labels, train.labels[FEDERATION.order])
    assert torch.equal(RUN.parts["b"], train.inputs[FEDERATION.order][:, 10:].double())
    seen = features_view(FEDERATION, RUN, "b", 1, "embeddings", frozenset(), SIZES)
    errors = (train.inputs[seen.rows][:, 10:].double() - RUN.parts["b"][seen.rows]).abs().amax(1)
    assert int((errors == 0.0).sum()) < 5


def test_the_batches_of_the_seed_do_not_name_examples_of_the_data_set() -> None:
    source = seeding.generator(FEDERATION.seed, "split batches", 1)
    public = torch.randperm(120, generator=source)  # what anybody computes from the seed
    rows = torch.cat([step.rows for step in RUN.epochs[1]])
    agreeing = (FEDERATION.dataset.train.labels[public] == RUN.labels[rows]).double().mean()
    assert abs(float(agreeing) - 0.5) < 4 * 0.5 / 120**0.5


def test_a_salt_gives_rows_other_numbers() -> None:
    orders = [replace(FEDERATION, salt=salt).order.tolist() for salt in (b"", b"a", b"b", b"a")]
    assert orders[0] != orders[1] == orders[3] != orders[2] != orders[0]


def test_parties_are_asked_for_the_rows_that_the_data_set_has() -> None:
    asked: list[Tensor] = []

    class Noting(CutWire):
        """Notes which examples parties are asked for."""

        def embed(self, rows: Tensor, number: int, replayed: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            asked.append(rows)
            return replayed

    run = FEDERATION.run(wire=Noting())
    for rows, step in zip(asked, run.epochs[1], strict=True):
        assert torch.equal(FEDERATION.dataset.train.labels[rows], run.labels[step.rows])
        assert not torch.equal(rows, step.rows)
