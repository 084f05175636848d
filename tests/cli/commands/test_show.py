"""`fedsim show` gives all that is known of a method."""

import json
from pathlib import Path

from tests.cli.typed import Typed


def test_show_gives_paper_settings_bounds_and_meaning(tmp_path: Path, typed: Typed) -> None:
    done = typed("show", "dropout-inversion", cwd=tmp_path)
    assert done.returncode == 0
    for expected in ("2208.06163", "mask_weight", "0.0001", ">= 0", "weight l_m of the mask prior", "max_iterations"):
        assert expected in " ".join(done.stdout.split())  # the table cuts texts into lines


def test_show_and_list_know_other_names_and_papers_of_others(tmp_path: Path, typed: Typed) -> None:
    shown = typed("show", "dia", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "dropout-inversion (attack)" in shown.stdout
    assert "Also called: dia\nPaper: 2208.06163\n" in shown.stdout
    assert "Related paper, of other authors: 1906.08935" in typed("show", "round-averaging", cwd=tmp_path).stdout
    listed = {own["name"]: own for own in json.loads(typed("list", "attacks", "--json", cwd=tmp_path).stdout)}
    assert listed["sparse-dictionary"]["aliases"] == ["spear++"]
    assert (listed["round-averaging"]["paper"], listed["round-averaging"]["related"]) == ("", "1906.08935")
    assert "(also: dia)" in typed("list", "attacks", cwd=tmp_path).stdout
