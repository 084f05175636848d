"""The trial run of docs/guard.md: the server gets the private updates of two guarded sites."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.federation.engines import superlink

ROOT = Path(__file__).parents[2]
PATIENCE = 550  # seconds


def trial() -> str:
    """Return the commands of the page, with ports that are free."""
    page = (ROOT / "docs" / "guard.md").read_text(encoding="utf-8")
    (commands,) = (block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "private-digits" in block)
    link, *nodes = superlink._free_ports(3)
    commands = commands.replace("CHECKOUT", str(ROOT)).replace("18000", str(link))
    ports = " ".join(map(str, nodes))
    return f"ports=({ports})\n" + commands.replace("1930$i", "${ports[$i]}")


@pytest.mark.slow
def test_the_trial_of_the_page_gives_the_server_two_private_updates(tmp_path: Path) -> None:
    (tmp_path / "trial.sh").write_text(trial())
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-e", "trial.sh"],
        cwd=tmp_path,
        env={**os.environ, "PATH": programs, "COLUMNS": "200", "FLWR_LOG_LEVEL": "INFO"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "Received 2 results and 0 failures" in done.stdout, done.stdout
    assert "'site 0' has spent epsilon" in done.stdout
    for number in (0, 1):
        assert "train: sent a private update" in (tmp_path / f"site-{number}" / "guard.log").read_text()
        assert "Traceback" not in (tmp_path / f"site-{number}" / "apps.log").read_text()  # noise would hide it
