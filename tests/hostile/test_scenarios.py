"""Scenario files that want something else than an experiment."""

import json
import os
from pathlib import Path

import pytest

from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.experiment.sweep.executors import processes
from fedsim.experiment.sweep.origin import origin_of
from fedsim.scenario import load
from tests.cli.typed import Say, fedsim
from tests.experiment.sweep.sweeping import Here

MODEL = '[model]\nname = "mlp"\nwidth = 8\ndepth = 1\n[federation]\nclients = 4\n'
DATA = '[data]\nname = "digits"\n'
OWN = """
from pathlib import Path
from fedsim.core import registry
from fedsim.core.registry import for_scenarios

def unmarked(**settings):
    Path("ran").write_text("")

@for_scenarios
def marked():
    digits = registry.get("dataset", "digits")
    return digits.make(digits.config())
"""


@pytest.mark.parametrize(
    "tables",
    [
        'data = { name = "subprocess:check_output", args = "touch ran", shell = true }\n' + MODEL,
        DATA + '[model]\nname = "subprocess:check_output"\n[federation]\nclients = 4\n',
        DATA + MODEL + '[arms]\n"data.name" = ["digits", "os:system"]\n',
        DATA + MODEL + '[arms.world.one]\n"model.name" = "os:system"\n',
        DATA + MODEL + '[sweep.grid]\n"data.name" = ["digits", "os:system"]\n',
        DATA + MODEL + '[[sweep.runs]]\ndata = { name = "os:system" }\n',
        'data = { name = "hostile_own:unmarked" }\n' + MODEL,
    ],
)
def test_only_marked_functions_can_be_named(tables: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "hostile_own.py").write_text(OWN)
    (tmp_path / "s.toml").write_text('title = "t"\n' + tables)
    with pytest.raises(FedsimError, match=r"is not marked for scenarios.*@for_scenarios.*--trust"):
        load(Path("s.toml"))
    assert not (tmp_path / "ran").exists()


TEXT = 'data = { name = "text-file", path = PATH, length = 8 }\n'
WRITER = '[model]\nname = "tiny-llama"\n[federation]\nclients = 2\n'
LEAKS = (
    TEXT + WRITER,
    'data = { name = "image-folder", path = PATH }\n' + MODEL,
    'data = { name = "sentence-pairs", path = "inside.txt", test_path = PATH }\n' + MODEL,
    'data = { name = "lee-news", tokenizer = PATH }\n' + WRITER,
    DATA + MODEL.replace("depth = 1", "depth = 1\ncheckpoint = PATH"),
    DATA + MODEL + '[[attacks]]\nname = "learned-prior"\ndenoiser = PATH\n',
    DATA + MODEL + '[[attacks]]\nname = "learned-prior"\n[tune]\nattack = "learned-prior"\n'
    "[tune.space]\ndenoiser = [PATH]\n",
    TEXT.replace("PATH", '"inside.txt"') + WRITER + '[arms]\n"data.path" = ["inside.txt", PATH]\n',
    TEXT.replace("PATH", '"inside.txt"') + WRITER + '[sweep.grid]\n"data.path" = ["inside.txt", PATH]\n',
    TEXT.replace("PATH", '"inside.txt"') + WRITER + '[[sweep.runs]]\n"data.path" = PATH\n',
    'data = { name = "hostile_paths:marked", folder = PATH }\n' + MODEL,
)


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stranger's folder with links, beside a secret."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "diary.txt").write_text("Dear diary.\n\nNobody reads this.")
    folder = tmp_path / "stranger"
    (folder / "documents").mkdir(parents=True)
    (folder / "inside.txt").write_text("One document.\n\nAnother document.")
    (folder / "documents" / "a.txt").write_text("A document.")
    (folder / "documents" / "b.txt").symlink_to(tmp_path / "secret" / "diary.txt")
    (folder / "link.txt").symlink_to(tmp_path / "secret" / "diary.txt")
    (folder / "also-inside.txt").symlink_to("inside.txt")
    (folder / "hostile_paths.py").write_text(OWN)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def scenario_with(tables: str, path: str) -> Path:
    Path("s.toml").write_text('title = "t"\n' + tables.replace("PATH", json.dumps(path)))
    return Path("s.toml")


@pytest.mark.parametrize("tables", LEAKS)
@pytest.mark.parametrize("path", ["{secret}/diary.txt", "../secret/diary.txt"])
def test_no_setting_names_a_file_outside_of_the_scenarios_folder(tables: str, path: str, stranger: Path) -> None:
    path = path.format(secret=stranger.parent / "secret")
    with pytest.raises(ScenarioError, match=r"is outside of the scenario's folder.*--set .*--trust"):
        load(scenario_with(tables, path))


@pytest.mark.parametrize("path", ["link.txt", "documents", ".", "..", "/", "missing/../../secret/diary.txt"])
def test_no_link_or_folder_leads_outside(path: str, stranger: Path) -> None:
    with pytest.raises(ScenarioError, match=r"s.toml: data.path: '.*' is outside of the scenario's folder"):
        load(scenario_with(LEAKS[0], path))


@pytest.mark.parametrize("path", ["inside.txt", "also-inside.txt", "{here}/inside.txt", "./inside.txt", "missing.txt"])
def test_files_of_the_scenarios_folder_are_read(path: str, stranger: Path) -> None:
    load(scenario_with(LEAKS[0], path.format(here=stranger)))


def test_the_folder_is_that_of_the_scenario_and_not_the_working_folder(
    stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario_with(LEAKS[0], "secret/diary.txt")
    monkeypatch.chdir(stranger.parent)
    with pytest.raises(ScenarioError, match="data.path: 'secret/diary.txt' is outside"):
        load(Path("stranger/s.toml"))
    scenario = stranger / "s.toml"
    scenario.write_text(scenario.read_text().replace("secret/diary.txt", "stranger/inside.txt"))
    load(Path("stranger/s.toml"))


def test_trust_and_the_user_may_lead_a_scenario_anywhere(stranger: Path) -> None:
    secret = str(stranger.parent / "secret" / "diary.txt")
    for tables in LEAKS[:-1]:
        load(scenario_with(tables, secret), trust=True)
    load(scenario_with(LEAKS[0], "inside.txt"), [f"data.path={json.dumps(secret)}"])
    load(scenario_with(LEAKS[0], "inside.txt"), ["data.path=link.txt"])
    with pytest.raises(ScenarioError, match="data.path: 'link.txt' is outside"):
        load(scenario_with(LEAKS[0], "link.txt"), ["data.length=9", "title=inside.txt"])


def test_names_and_titles_that_files_share_are_no_paths(stranger: Path) -> None:
    for name in ("digits", "mlp", "t"):
        Path(name).symlink_to(stranger.parent / "secret")
    load(scenario_with('description = "../secret/diary.txt, /etc/passwd"\n' + DATA + MODEL, ""))


def test_a_default_outside_of_the_folder_is_no_path_of_the_scenario(stranger: Path) -> None:
    load(scenario_with('description = "a/b"\ndata = { name = "fashion-mnist" }\n' + MODEL, ""))


@pytest.mark.slow
def test_a_marked_function_runs_and_trust_lets_any(tmp_path: Path) -> None:
    (tmp_path / "hostile_own.py").write_text(OWN)
    (tmp_path / "s.toml").write_text('title = "t"\ndata = { name = "hostile_own:marked" }\n' + MODEL)
    done = fedsim("run", "s.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    unmarked = ("run", "s.toml", "--set", "data.name=hostile_own:unmarked", "--out", "o")
    refused = fedsim(*unmarked, cwd=tmp_path)
    assert refused.returncode == 2
    assert "--trust" in refused.stderr
    assert not (tmp_path / "ran").exists()
    fedsim(*unmarked, "--trust", cwd=tmp_path)
    assert (tmp_path / "ran").exists()


def test_what_is_no_regular_file_of_a_sane_size_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large.toml").open("wb") as file:
        file.truncate(1 << 40)
    for path, words in (
        (Path("/dev/zero"), "no regular file"),
        (tmp_path / "pipe", "no regular file"),
        (tmp_path, "is a folder, expected a scenario file"),
        (tmp_path / "large.toml", "expected a scenario of at most"),
    ):
        with pytest.raises(ScenarioError, match=words):
            load(path)
        assert origin_of(path, []) == ""


def test_a_listing_bears_whatever_lies_among_the_scenarios(tmp_path: Path) -> None:
    (tmp_path / "scenarios").mkdir()
    os.mkfifo(tmp_path / "scenarios" / "pipe.toml")
    (tmp_path / "scenarios" / "broken.toml").write_text("title =")
    (tmp_path / "scenarios" / "bytes.toml").write_bytes(b"\xff")
    (tmp_path / "scenarios" / "good.toml").write_text('title = "good one"')
    done = fedsim("list", "scenarios", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "good one" in done.stdout
    assert "no regular file" in done.stdout


@pytest.mark.draws
def test_titles_labels_and_names_of_groups_cannot_act_on_a_terminal_a_page_or_a_spreadsheet(
    tmp_path: Path, command: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "ProcessExecutor", Here)
    escape = r"\u001b]0;owned\u0007"
    (tmp_path / "s.toml").write_text(
        f'title = "{escape}title"\ndescription = "{escape}"\n{DATA}{MODEL}'
        f'[[attacks]]\nname = "closed-form-linear"\nlabel = "=HYPERLINK(1){escape}"\n'
        f'[sweep.grid]\n"=cmd|{escape}" = {{ "@SUM{escape}" = {{ "model.width" = 9 }} }}\n'
    )
    told = [command("sweep", "s.toml", "--out", "o"), command("export", "o", "--csv"), command("report", "o")]
    (run,) = (tmp_path / "o" / "runs").iterdir()
    told.append(command("report", str(run)))
    assert [code for code, *_ in told] == [0, 0, 0, 0], told
    for _, *printed in told:
        assert "\x1b" not in "".join(printed)
    assert r"\x1b]0;ownedtitle" in told[0][1]
    written = [*(tmp_path / "o").rglob("*.html"), *(tmp_path / "o").rglob("*.md"), *(tmp_path / "o").rglob("*.csv")]
    assert len(written) > 6
    for path in written:
        text = path.read_text()
        assert "\x1b" not in text
        assert "\x07" not in text
        if path.suffix == ".csv":
            cells = [cell.strip('"') for line in text.splitlines() for cell in line.split(",")]
            assert not [cell for cell in cells if cell.startswith(("=", "@"))]


def test_what_nests_without_end_is_told_in_a_sentence(tmp_path: Path, command: Say) -> None:
    for depth in (60, 5_000):
        (tmp_path / "s.toml").write_text(f'title = "t"\nmodel = {"[" * depth}{"]" * depth}\n')
        code, _, told = command("run", str(tmp_path / "s.toml"))
        assert code == 2
        assert "nests tables and lists more than 50 deep" in told


def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_bytes(b"\xef\xbb\xbf" + f'title = "t"\n{DATA}{MODEL}'.encode())
    assert load(tmp_path / "s.toml").title == "t"


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("arms", "arms: its values combine to 1,000,000 arms, expected at most 10,000"),
        ("sweep.grid", "sweep: its values combine to 2,000,000 runs, expected at most 10,000"),
    ],
)
def test_a_million_combinations_are_counted_and_not_made(tmp_path: Path, table: str, told: str, command: Say) -> None:
    values = list(range(1, 101))
    seeds = "[sweep]\nseeds = [1, 2]\n" if table != "arms" else ""
    (tmp_path / "s.toml").write_text(
        f'title = "t"\n{DATA}{MODEL}{seeds}[{table}]\n"model.width" = {values}\n"model.depth" = {values}\n'
        f'"federation.clients" = {values}\n'
    )
    code, _, said = command("sweep" if seeds else "run", str(tmp_path / "s.toml"), "--out", str(tmp_path / "o"))
    assert code == 2
    assert told in said


@pytest.mark.parametrize("model", ["edm-unet", "patch-diffusion"])
def test_a_model_of_another_task_is_refused_before_anything_is_trained(
    tmp_path: Path, model: str, command: Say
) -> None:
    (tmp_path / "s.toml").write_text(f'title = "t"\n{DATA}[model]\nname = "{model}"\n[federation]\nclients = 4\n')
    code, _, told = command("run", str(tmp_path / "s.toml"), "--out", str(tmp_path / "o"))
    assert code == 2
    assert f"task 'classification' does not fit model '{model}', which returns shape (2, 1, 8, 8)" in told
    assert "task.name" in told


def test_a_record_whose_metrics_were_changed_is_named_and_not_reported(tmp_path: Path, command: Say) -> None:
    (tmp_path / "s.toml").write_text(f'title = "t"\n{DATA}{MODEL}[[attacks]]\nname = "closed-form-linear"\n')
    out = tmp_path / "o"
    assert command("run", str(tmp_path / "s.toml"), "--out", str(out))[0] == 0
    record = json.loads((out / "record.json").read_text())
    record["metrics"] = [metric for metric in record["metrics"] if metric["name"] != "psnr"]
    (out / "record.json").write_text(json.dumps(record))
    code, _, told = command("report", str(out))
    assert code == 2
    assert "record.json cannot be read: metrics: it has values of 'psnr', which it does not declare" in told
