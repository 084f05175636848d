"""An attack on attributes in a process of its own reads as here, and what it does to its process is its own failure."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.processes.methods import require_tensor, start_in_process
from fedsim.processes.subprocess_runner import start_in_subprocess
from fedsim.questions.attributes.hooks import AttributeAttack
from fedsim.record import Finding, RunRecord
from fedsim.scenario import Choice
from tests.experiment.running import Build
from tests.federating import recorded
from tests.processes.packages import install

SMALL: dict[str, Any] = {
    "data": {"name": "digits", "test_fraction": 0.5},
    "model": {"name": "mlp", "width": 8, "depth": 1, "dropout": 0.0},
    "federation": {"clients": 12, "batch_size": 1, "engine": "vectorized"},
    "threat": {"victims": 12, "keep_updates": False},
}
STRANGE = '''
    """Does what its setting says."""
    import gc, os
    import torch
    from fedsim.questions.attributes.hooks import AttributeAttack
    from fedsim.core.registry import attack
    from fedsim.core.types import Config, Dataset, WireEntry
    from fedsim.scenario.world import World

    class StrangeConfig(Config):
        deed: str = ""

    @attack("strange", summary="does what its setting says")
    class Strange(AttributeAttack[StrangeConfig]):
        def describe(self, change, generator):
            deed = self.config.deed
            if deed == "end":
                os._exit(7)
            if deed == "raise":
                raise ZeroDivisionError("a bug")
            print("no answer", flush=True)
            size = 3 if deed == "sizes" and float(next(iter(change.values())).sum()) > 0 else 2
            return torch.rand(size) + sum(type(item) in (WireEntry, World, Dataset) for item in gc.get_objects())

        def read(self, known, labels, asked, generator):
            if self.config.deed == "see" and int(known.max()) > 0:
                raise ValueError("it sees the world")
            values = 9 if self.config.deed == "values" else int(labels.max()) + 1
            return torch.rand(len(asked), values, generator=generator)
'''


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_methods: None) -> None:
    """An installed package with an attack, for this process and its children."""
    install(tmp_path / "site", monkeypatch, "fedsim.attacks", "strange_reader", STRANGE)


def results(record: RunRecord) -> dict[str, Finding]:
    attacks = [own for own in record.arms[0].findings if own.role == "attack"]
    return {own.label: own.model_copy(update={"seconds": 0.0}) for own in attacks}


def attacking(*deeds: str) -> dict[str, Any]:
    strange = [
        {"name": "strange", "attribute": "parity", "label": deed or "quiet", **({"deed": deed} if deed else {})}
        for deed in deeds
    ]
    return {"public": 4, "attacks": [{"name": "change-norms", "attribute": "parity"}, *strange]}


@pytest.mark.slow
def test_whatever_an_attack_does_to_its_process_the_others_find_what_they_find_here(
    scenario: Build, tmp_path: Path, strange: None
) -> None:
    """`see` raises where the scorer's world lies in its process: that is so here, and not in a process of its own."""
    deeds = ("raise", "sizes", "values", "see", "")
    here = results(recorded(scenario(**SMALL, attributes=attacking(*deeds)), tmp_path / "here", start=start_in_process))
    apart = results(
        recorded(scenario(**SMALL, attributes=attacking("end", *deeds)), tmp_path / "apart", start=start_in_subprocess)
    )
    assert apart["end"].failure == "its process ended with 7 before it answered."
    assert "ValueError: it sees the world" in str(here.pop("see").failure)
    assert not apart.pop("see").failure
    for label, why in (
        ("raise", "ZeroDivisionError: a bug (strange_reader.py"),
        ("sizes", "expected a vector for each update"),
        ("values", "the probabilities have shape (12, 9), expected (12, 2)"),
    ):
        assert why in str(here[label].failure)
        assert why in str(apart[label].failure)
    quiet, norms = apart["quiet"], apart["change-norms (parity)"]
    assert quiet.failure == norms.failure == ""
    assert norms == here["change-norms (parity)"]
    assert quiet.value is not None


@pytest.mark.slow
def test_somebody_who_asks_to_stop_ends_the_process_and_reads_what_is_read_here() -> None:
    choice = Choice(name="change-norms")
    known, labels = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
    stops: list[int] = []

    def source() -> torch.Generator:
        return seeding.generator(1, "reading")

    with start_in_subprocess(choice, lambda: bool(stops)) as apart:
        read = apart.call(AttributeAttack.read, known, labels, known, generators=[source()])
        with start_in_process(choice, lambda: False) as here:
            assert torch.equal(read, here.call(AttributeAttack.read, known, labels, known, generators=[source()]))
        stops.append(1)
        with pytest.raises(KeyboardInterrupt):
            apart.call(AttributeAttack.describe, {"a": known}, generators=[source()])
        child = apart._child  # type: ignore[attr-defined]
    assert child.code is not None


def test_an_answer_is_checked_on_this_side() -> None:
    known, labels = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
    with pytest.raises(FedsimError, match="not finite"):
        AttributeAttack.check_probabilities(torch.full((4, 2), torch.nan), labels, known)
    with pytest.raises(FedsimError, match="its answer is a dict, expected a tensor"):
        require_tensor({"a": 1})
