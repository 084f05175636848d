"""A finished sweep is known without torch, and only by the same command."""

import subprocess
import sys
import tomllib
from pathlib import Path

from fedsim.experiment.sweep.folder import SweepFolder
from fedsim.experiment.sweep.origin import finished_before, origin_of
from fedsim.scenario import parse
from tests.experiment.sweep.sweeping import made


def test_a_finished_sweep_is_known_without_torch_and_only_by_the_same_command(tmp_path: Path) -> None:
    path, out = tmp_path / "s.toml", tmp_path / "out"
    text = 'title = "s"\n[data]\nname = "digits"\n[model]\nname = "mlp"\nwidth = 4\ndepth = 1\n[sweep]\nseeds = [1]\n'
    path.write_text(text)
    wanted = parse(tomllib.loads(text), "test")
    made(out, wanted)
    SweepFolder(out).keep_origin(origin_of(path, []))
    told = (
        "import sys; from pathlib import Path; from fedsim.experiment.sweep.origin import finished_before, origin_of;"
        f"print(finished_before(Path({str(out)!r}), origin_of(Path({str(path)!r}), [])), 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", told], check=True, capture_output=True).stdout == b"1 False\n"
    assert finished_before(out, origin_of(path, ["model.width=5"])) is None
    assert finished_before(out, origin_of(tmp_path / "absent.toml", [])) is None
    record = next(out.rglob("record.json"))
    whole = record.read_bytes()
    record.write_bytes(whole.replace(b'"finished"', b'"interrupted"', 1))
    assert finished_before(out, origin_of(path, [])) is None
    record.write_bytes(whole)
    (out / "origin.json").write_text("{")
    assert finished_before(out, origin_of(path, [])) is None
