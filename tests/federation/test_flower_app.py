"""scenarios/47_flower_app: Flower packs it and runs it, and its mod is in the archive that is audited."""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from flwr.app import Context, RecordDict
from flwr.cli.build import build_fab_from_disk

from fedsim.audit.loading import load, load_subject
from fedsim.federation.engines.local import LocalGrid

APP = Path(__file__).parents[2] / "scenarios" / "47_flower_app" / "private-digits"
MOST_FILE, MOST_ARCHIVE = 10**6, 10 * 2**20  # bytes that Flower publishes, and that a SuperLink takes
NOISE = 0.5 * 1.0  # standard deviation: clip times noise multiplier of the app's mod


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Forget the app's modules, which a test may load from its archive."""
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "private_digits"]:
        del sys.modules[name]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with pytest.warns(DeprecationWarning, match="GitWildMatchPattern"):  # of a package that Flower uses
        content = build_fab_from_disk(APP)
    path = tmp_path / "private-digits.fab"
    path.write_bytes(content)
    return path


def test_flower_packs_all_of_it_within_its_limits(archive: Path) -> None:
    assert archive.stat().st_size < MOST_ARCHIVE
    with zipfile.ZipFile(archive) as packed:
        assert all(file.file_size < MOST_FILE for file in packed.infolist())
        sources = {str(path.relative_to(APP)) for path in APP.rglob("*.py")}
        assert sources < set(packed.namelist())


def test_an_audit_of_the_archive_sees_a_private_update(archive: Path) -> None:
    subject = load_subject(load(str(archive)), str(archive))
    assert "mods DefendingMod" in subject.notes[0]
    values = torch.cat([tensor.flatten() for tensor in subject.reply.weight_delta.values()])
    # The update has a norm of 0.5 at most, which adds 0.0004 to the variance of 650 values; six standard errors.
    assert float(values.std()) == pytest.approx(NOISE, abs=0.001 + 6 * NOISE / (2 * len(values)) ** 0.5)


def test_its_server_trains_with_its_clients(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(APP))
    server, client = (importlib.import_module(f"private_digits.{kind}_app") for kind in ("server", "client"))
    config = {"num-rounds": 2, "examples": 20, "learning-rate": 0.5}
    known: list[float] = []
    accuracy = server.accuracy
    monkeypatch.setattr(server, "accuracy", lambda round_, arrays: known.append(accuracy(round_, arrays)["accuracy"]))
    server.app(LocalGrid(client.app, 3, config), Context(1, 1, {}, RecordDict(), config))
    assert len(known) == 3  # before the first round, and after each
    assert len(set(known)) > 1
