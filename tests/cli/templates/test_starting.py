"""What somebody starts from: a scenario that exists, and a template whose keys all exist."""

import re
from pathlib import Path

import pytest

from fedsim.cli.templates.starting import TEMPLATE, write_start
from fedsim.core.errors import FedsimError
from fedsim.scenario import Federation, Participation, Scoring, Threat, load

DISABLED = re.compile(r'^#(?=[\[\w"]+)', re.MULTILINE)  # a key behind the sign; prose has a space there


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
