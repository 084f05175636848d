"""`fedsim init`: a folder to start from."""

import re
from pathlib import Path

import pytest

from fedsim.cli.commands.init import TEMPLATE, write_start
from fedsim.core.errors import FedsimError
from fedsim.core.source import find_shipped_folder
from fedsim.scenario import Federation, Participation, Scoring, Threat, load
from tests.cli.typed import Say

DISABLED = re.compile(r'^#(?=[\[\w"]+)', re.MULTILINE)  # a key behind the sign; prose has a space there


def test_an_empty_folder_gets_a_scenario_and_a_template_that_load(command: Say, here: Path) -> None:
    code, told, _ = command("init")
    assert code == 0
    assert "fedsim run quickstart.toml" in told
    assert (here / "quickstart.toml").read_bytes() == (find_shipped_folder() / "00_quickstart.toml").read_bytes()
    assert len(load(here / "scenario.toml").arms["model.dropout"]) == 2


def test_another_scenario_goes_into_a_folder_that_is_made(command: Say, here: Path) -> None:
    assert command("init", "31_membership", "--to", "mine")[0] == 0
    assert sorted(path.name for path in (here / "mine").iterdir()) == ["membership.toml", "scenario.toml"]


def test_what_is_there_stays_and_nothing_is_written_beside_it(command: Say, here: Path) -> None:
    (here / "scenario.toml").write_text("mine")
    code, _, told = command("init")
    assert code == 2
    assert told == "scenario.toml exists already. Move it away, or choose another folder with --to.\n"
    assert [path.name for path in here.iterdir()] == ["scenario.toml"]


def test_every_key_of_the_template_is_one_and_has_its_default(tmp_path: Path) -> None:
    text = TEMPLATE.read_text()
    open_ = tmp_path / "open.toml"
    open_.write_text(DISABLED.sub("", text))
    scenario = load(open_)
    assert (scenario.threat, scenario.scoring) == (Threat(), Scoring())
    assert scenario.participation == Participation(fraction=1.0)
    assert scenario.federation.model_copy(update={"optimizer": Federation().optimizer}) == Federation()
    for table in (Federation, Participation, Threat, Scoring):
        missing = [key for key in table.model_fields if f"{key} = " not in text]
        assert set(missing) <= {
            "address",
            "certificates",
            "local_epochs",
            "cohort",
            "deadline",
        }  # absent is their default


def test_a_scenario_loses_its_number_and_nothing_is_written_where_one_file_exists(tmp_path: Path) -> None:
    scenario = tmp_path / "07_mine.toml"
    scenario.write_bytes(b"title = 'mine'\n")
    folder = tmp_path / "deep" / "er"
    paths = write_start(scenario, folder)
    assert paths == [folder / "mine.toml", folder / TEMPLATE.name]
    assert [path.read_bytes() for path in paths] == [b"title = 'mine'\n", TEMPLATE.read_bytes()]
    paths[1].unlink()
    with pytest.raises(FedsimError, match=r"mine.toml exists already.*--to"):
        write_start(scenario, folder)
    assert [path.name for path in folder.iterdir()] == ["mine.toml"]
