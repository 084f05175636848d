"""`fedsim list` is complete, and imports no optional package."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.cli.typed import ROOT


def test_listing_is_complete_and_imports_no_optional_package(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['fedsim', 'list', '--json']\n"
        "from fedsim.cli import main\n"
        "try:\n    main.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'mlxtend', 'sklearn', 'torchvision', 'flwr', 'matplotlib', 'opacus', 'pandas'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stderr.strip().endswith("[]")
    entries = json.loads(done.stdout)
    assert {entry["group"] for entry in entries} == {
        "attacks", "defenses", "components", "aggregators", "memberships", "metrics", "tasks", "models", "data",
        "scenarios",
    }  # fmt: skip
    assert {"dropout-inversion", "wiig", "inverting-gradients", "krum", "mnist5k", "vit-small"} <= {
        e["name"] for e in entries
    }
