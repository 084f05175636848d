"""Whatever an app does, what leaves is private arrays in a reply of the guard's own, or a sentence of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flwr.app import Array, ArrayRecord, Message

from fedsim.core.types import Tensors
from fedsim.guard.private_reply import PrivateReply, RunApp
from fedsim.privacy.accounting import Spent, epsilon
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.noise_recovery.recovery import subtract_noise
from fedsim.privacy.noise_recovery.result import ComputedNoise, UnknownNoise
from fedsim.privacy.upload import clip_jointly
from tests.guard.guarded import APP, NOTHING, WORDS, Guarded, message, reason, trained, untouched
from tests.guard.site import NOISE, START
from tests.privacy.noise_recovery.weak_noise import replace_secure_noise


def only_arrays(covered: PrivateReply) -> dict[str, torch.Tensor]:
    """Return the arrays of a reply that holds nothing else."""
    content = covered.reply.content
    assert list(content) == ["weights", "metrics"]
    assert dict(content.metric_records["metrics"]) == {"num-examples": 1}
    return content.array_records["weights"].to_torch_state_dict()


def assert_is_noise(arrays: Tensors) -> None:
    assert {n: (t.shape, t.dtype) for n, t in arrays.items()} == {n: (t.shape, t.dtype) for n, t in START.items()}
    values = torch.cat([tensor.flatten() for tensor in arrays.values()])
    # 2050 draws: their mean and deviation are within 5 of their standard errors, 1/sqrt(n) and 1/sqrt(2n).
    assert abs(float(values.mean())) < 5 * NOISE / len(values) ** 0.5
    assert float(values.std()) == pytest.approx(NOISE, abs=5 * NOISE / (2 * len(values)) ** 0.5)


def test_an_update_leaves_with_the_noise_of_the_policy_and_nothing_beside_it(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path)
    covered = guarded.answer()
    assert_is_noise(only_arrays(covered))
    assert (covered.reservation, covered.why) == (1, "")
    (entry,) = guarded.ledger.entries()
    assert entry.about == {"run": "5", "app": APP, "message": "m", "category": "train"}
    assert entry.spent == (Spent(2.0, 1.0, 1),)  # clip 0.5, neighbours 2 * 0.5 apart, noise 2


def noise_of_a_reply(folder: Path) -> tuple[ComputedNoise | UnknownNoise, Tensors, Tensors]:
    """Return what a server recovers from a reply: the noise, the update without it, and the clipped update."""
    received = {"w": torch.zeros(30, 800), "b": torch.zeros(10)}
    numbers = torch.Generator().manual_seed(3)
    update = {name: torch.randn(tensor.shape, generator=numbers) for name, tensor in received.items()}
    covered = Guarded(folder).answer(
        message(weights=received), lambda weights: {name: weights[name] - update[name] for name in weights}
    )
    arrays = only_arrays(covered)
    found, cleaned = subtract_noise({name: received[name] - arrays[name] for name in received}, 100, deviation=NOISE)
    return found, cleaned, clip_jointly(update, 0.5)


@pytest.mark.slow
def test_a_server_cannot_compute_the_noise_of_a_guard_and_could_with_torchs_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _, _ = noise_of_a_reply(tmp_path / "secure")
    assert isinstance(found, UnknownNoise)
    assert "contradict" in found.reason
    replace_secure_noise(monkeypatch)
    found, cleaned, clipped = noise_of_a_reply(tmp_path / "torch")
    assert isinstance(found, ComputedNoise)
    assert found.is_complete
    for name, tensor in clipped.items():
        torch.testing.assert_close(cleaned[name], tensor, rtol=0, atol=1e-5)


NORMED = {
    "w": torch.zeros(3),
    "bn.running_mean": torch.tensor([1.0, -2.0]),
    "bn.num_batches_tracked": torch.tensor(7),
    "last": torch.zeros(2, dtype=torch.float64),
}
MOVES = {
    "w": torch.tensor([2.0, 0.0, 0.0]),
    "bn.running_mean": torch.tensor([0.0, 4.0]),
    "bn.num_batches_tracked": torch.tensor(40),
    "last": torch.tensor([4.0, 0.0], dtype=torch.float64),
}


@pytest.mark.parametrize(("choice", "norm"), [("received", 20**0.5), ("noised", 6.0)])
def test_a_network_with_batch_normalisation_is_clipped_and_noised_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str, norm: float
) -> None:
    """The expected reply is computed apart: norms 2, 4 and 4 of the parts, clip 0.5, noise of deviation 2."""
    drawn, expected = (torch.Generator().manual_seed(5) for _ in range(2))

    def add(tensor: torch.Tensor, deviation: float) -> torch.Tensor:
        return tensor + deviation * torch.randn(tensor.shape, dtype=tensor.dtype, generator=drawn)

    monkeypatch.setattr("fedsim.privacy.discrete_noise.add_discrete", add)
    noise = {"name": "local-dp", "clip": 0.5, "noise_multiplier": 4.0, "running_statistics": choice}
    guarded = Guarded(tmp_path, defenses=[noise], server_check=False)
    sent = only_arrays(guarded.answer(message(weights=NORMED), lambda got: {n: got[n] + MOVES[n] for n in got}))
    assert list(sent) == list(NORMED)
    for name, received in NORMED.items():
        is_noised = name in ("w", "last") or (choice == "noised" and name == "bn.running_mean")
        if not is_noised:
            assert torch.equal(sent[name], received)
            continue
        draws = torch.randn(received.shape, dtype=received.dtype, generator=expected)
        torch.testing.assert_close(sent[name], received + MOVES[name] * 0.5 / norm - 2.0 * draws)
    (entry,) = guarded.ledger.entries()
    assert entry.spent == (Spent(2.0, 1.0, 1),)


def test_an_open_defense_after_the_private_one_leaves_running_statistics_as_received(tmp_path: Path) -> None:
    private = {"name": "local-dp", "clip": 0.5, "noise_multiplier": 4.0}
    noisy = {"name": "gradient-noise", "scale": 1.0, "applies": "per_update"}
    sent = only_arrays(Guarded(tmp_path, defenses=[private, noisy], server_check=False).answer(message(weights=NORMED)))
    assert torch.equal(sent["bn.running_mean"], NORMED["bn.running_mean"])
    assert torch.equal(sent["bn.num_batches_tracked"], NORMED["bn.num_batches_tracked"])


def test_it_is_written_down_before_the_app_runs(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path)
    seen: list[int] = []

    def looking(received: Tensors) -> Tensors:
        seen.append(len(Ledger.open(guarded.policy.ledger, guarded.policy.key).entries()))
        return trained(received)

    guarded.answer(train=looking)
    assert seen == [1]


def test_a_budget_that_is_spent_is_spent_for_every_run_app_and_guard(tmp_path: Path) -> None:
    budget = epsilon([Spent(2.0, 1.0, 2)], 1e-5).value + 1e-6
    for _ in range(2):
        Guarded(tmp_path, budget={"epsilon": budget}).answer()
    late = Guarded(tmp_path, budget={"epsilon": budget}).answer(message(run=6), untouched, "b" * 64)
    assert reason(late) == f"{WORDS}the epsilon of this site is spent."
    assert late.reservation is None
    assert "'ward' has spent epsilon 2.943" in late.why


def failing(_received: Tensors) -> Tensors:
    raise RuntimeError("SECRET")


MISFITS: dict[str, RunApp] = {
    "raises": failing,
    "lacks an array": lambda received: {"w": received["w"]},
    "has another shape": lambda received: {**received, "w": torch.ones(3)},
    "is complex": lambda received: {**received, "w": received["w"].to(torch.complex64)},
    "has another type": lambda received: {**received, "w": received["w"].double()},
    "is an integer": lambda received: {**received, "w": received["w"].long()},
    "has no arrays": lambda _received: {},
}


@pytest.mark.parametrize("train", MISFITS.values(), ids=MISFITS)
def test_a_failure_of_the_app_sends_noise_or_a_sentence_and_costs_the_same(tmp_path: Path, train: RunApp) -> None:
    quiet = Guarded(tmp_path / "noise")
    assert_is_noise(only_arrays(quiet.answer(train=train)))
    loud = Guarded(tmp_path / "error", messages={"on_app_failure": "error"})
    covered = loud.answer(train=train)
    assert reason(covered) == NOTHING
    assert covered.reservation == 1
    assert [len(one.ledger.entries()) for one in (quiet, loud)] == [1, 1]


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e30])
def test_numbers_that_are_not_finite_or_too_large_are_clipped(tmp_path: Path, value: float) -> None:
    arrays = only_arrays(Guarded(tmp_path).answer(train=lambda r: {n: torch.full_like(t, value) for n, t in r.items()}))
    assert_is_noise(arrays)


def test_arrays_that_the_server_did_not_send_are_left_out(tmp_path: Path) -> None:
    covered = Guarded(tmp_path).answer(train=lambda received: {**trained(received), "SECRET": torch.ones(3)})
    assert_is_noise(only_arrays(covered))


@pytest.mark.parametrize(
    ("sent", "app", "words"),
    [
        (message(message_type="evaluate"), APP, "this site answers train alone"),
        (message(message_type="query.secret"), APP, "this site answers train alone"),
        (message(), "b" * 64, f"this site does not run the app with SHA-256 {'b' * 64}"),
        (message(more=ArrayRecord(START)), APP, "a message has 2 array records, expected 1"),
        (message(weights={}), APP, "a message holds arrays that no defense covers, expected float32 or float64"),
        (message(weights={"n": torch.tensor(3)}), APP, "a message holds arrays that no defense covers, expected "),
    ],
)
def test_what_the_policy_does_not_allow_is_refused_before_an_app_runs(
    tmp_path: Path, sent: Message, app: str, words: str
) -> None:
    guarded = Guarded(tmp_path, apps={"sha256": [APP]})
    covered = guarded.answer(sent, untouched, app)
    assert reason(covered).startswith(f"{WORDS}{words}")
    assert covered.reservation is None
    assert guarded.ledger.entries() == ()


def written_as(header: bytes) -> ArrayRecord:
    """An array whose bytes are not what its name says."""
    return ArrayRecord({"w": Array("float32", (2, 2), "numpy.ndarray", header)})


HUGE = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(117)
    + b"\n"
)
OBJECTS = HUGE.replace(b"'<f4'", b"'|O' ")


@pytest.mark.parametrize("data", [b"", b"nonsense", HUGE, OBJECTS], ids=["empty", "nonsense", "huge", "objects"])
def test_arrays_of_a_hostile_server_are_refused_before_an_app_runs(tmp_path: Path, data: bytes) -> None:
    sent = message()
    sent.content["weights"] = written_as(data)
    guarded = Guarded(tmp_path)
    assert reason(guarded.answer(sent, untouched)) == NOTHING
    assert guarded.ledger.entries() == ()


def test_a_run_gets_so_many_answers_after_restarts_too(tmp_path: Path) -> None:
    for _ in range(2):
        assert not Guarded(tmp_path, messages={"rounds": 2}).answer().reply.has_error()
    third = Guarded(tmp_path, messages={"rounds": 2}).answer(train=untouched)
    assert reason(third) == f"{WORDS}this site answers 2 messages of a run."
    assert not Guarded(tmp_path, messages={"rounds": 2}).answer(message(run=6)).reply.has_error()


def test_weights_that_look_crafted_are_refused_and_cost_nothing(tmp_path: Path) -> None:
    crafted = message(weights={"w": torch.ones(40, 50)})
    guarded = Guarded(tmp_path / "with")
    assert "the weights look crafted" in reason(guarded.answer(crafted, untouched))
    assert guarded.ledger.entries() == ()
    assert not Guarded(tmp_path / "without", server_check=False).answer(crafted).reply.has_error()


def test_a_ledger_that_was_changed_stops_everything_and_the_server_is_not_told(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path)
    guarded.answer()
    file = guarded.policy.ledger
    file.write_bytes(file.read_bytes().replace(b"ward", b"warm"))
    covered = guarded.answer(train=untouched)
    assert reason(covered) == NOTHING
    assert "line 1 was not written with this ledger's key" in covered.why


def test_a_guard_that_fails_sends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded = Guarded(tmp_path)
    monkeypatch.setattr(guarded.cover, "_build_reply", lambda *_: 1 / 0)
    covered = guarded.answer()
    assert reason(covered) == NOTHING
    assert "ZeroDivisionError" in covered.why
    assert len(guarded.ledger.entries()) == 1


def test_defenses_change_an_update_in_the_order_of_the_policy(tmp_path: Path) -> None:
    private = {"name": "local-dp", "clip": 0.5, "noise_multiplier": 4.0}
    sparse = {"name": "pruning", "rate": 0.9, "applies": "per_update"}
    first, last = (
        Guarded(tmp_path / str(i), defenses=both) for i, both in enumerate(([sparse, private], [private, sparse]))
    )
    shares = [float((only_arrays(one.answer())["w"] == 0).float().mean()) for one in (first, last)]
    assert shares[0] == 0  # noise on pruned entries
    assert shares[1] > 0.8  # noise that was pruned


def test_metrics_of_the_policy_are_sent_and_those_of_the_app_are_not(tmp_path: Path) -> None:
    covered = Guarded(tmp_path, messages={"metrics": {"train_loss": 0.0}}).answer()
    assert dict(covered.reply.content.metric_records["metrics"]) == {"num-examples": 1, "train_loss": 0.0}


def test_every_mechanism_of_the_policy_is_written_down(tmp_path: Path) -> None:
    two = [{"name": "local-dp", "clip": 0.5, "noise_multiplier": noise} for noise in (4.0, 6.0)]
    guarded = Guarded(tmp_path, defenses=two)
    guarded.answer()
    (entry,) = guarded.ledger.entries()
    assert sorted(part.noise_multiplier for part in entry.spent) == [2.0, 3.0]
