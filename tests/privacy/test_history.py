"""What a client remembers of what it has spent."""

from flwr.app import RecordDict

from fedsim.core.types import Mechanism
from fedsim.privacy.accounting import Spent
from fedsim.privacy.history import spend, spent


def mechanism(noise: float, rate: float, steps: int) -> Mechanism:
    return Mechanism(
        noise_multiplier=noise,
        sampling_rate=rate,
        steps=steps,
        delta=1e-5,
        unit="example",
        adjacency="add-or-remove",
        adversary="the server",
    )


def test_rounds_are_appended_each_with_its_own_settings() -> None:
    state = RecordDict()
    assert spent(state, "a") == ()
    spend(state, {"a": mechanism(1.5, 0.25, 3)})
    assert spent(state, "a") == (Spent(1.5, 0.25, 3),)
    spend(state, {"a": mechanism(0.5, 1.0, 7)})
    assert spent(state, "a") == (Spent(1.5, 0.25, 3), Spent(0.5, 1.0, 7))


def test_mechanisms_are_kept_apart_by_name() -> None:
    state = RecordDict()
    spend(state, {"a": mechanism(1.0, 1.0, 1), "b": mechanism(2.0, 1.0, 2)})
    spend(state, {"b": mechanism(2.0, 1.0, 2)})
    assert spent(state, "a") == (Spent(1.0, 1.0, 1),)
    assert spent(state, "b") == (Spent(2.0, 1.0, 2), Spent(2.0, 1.0, 2))
    assert spent(state, "c") == ()
