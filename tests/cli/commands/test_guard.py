"""`fedsim guard`: what a person of a site reads, and mistakes in one sentence."""

from pathlib import Path

import pytest

from fedsim.guard import flower_version
from fedsim.guard.policy import read_policy
from fedsim.privacy.ledger import Ledger
from tests.cli.typed import Say
from tests.guard.site import policy


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    policy(tmp_path, budget={"epsilon": 4.5}, apps={"isolation": "none"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def reserve(site: Path, run: str) -> Ledger:
    """Write a round of a run into the ledger of a site."""
    rules = read_policy(site / "guard.toml")
    mechanisms = [mod.mechanism for mod in rules.mods() if mod.mechanism is not None]
    ledger = Ledger.open(rules.ledger, rules.key)
    ledger.reserve(rules.subject, mechanisms, rules.budget.allowance, {"run": run, "app": "a" * 64})
    return ledger


def test_status_says_what_was_spent_and_what_is_left(command: Say, site: Path) -> None:
    reserve(site, "17")
    code, out, err = command("guard", "status")
    assert (code, err) == (0, "")
    assert "'ward' has spent epsilon 1.993 of 4.5 at delta 1e-05. Rounds left: 3." in out
    assert "Rounds at work or broken off: 1. They count." in out
    assert "Last entry: 1." in out
    assert "17" in out
    assert "aaaaaaaaaaaa" in out


def test_runs_are_whole_on_a_screen_of_eighty_columns(
    command: Say, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    longest = str(2**64 - 1)
    ledger = reserve(site, longest)
    _, out, _ = command("guard", "status")
    assert longest in out
    assert "a" * 12 in out
    assert ledger.entries()[0].at[:16].replace("T", " ") in out


def test_a_new_site_is_told_without_a_table(command: Say, site: Path) -> None:
    code, out, _ = command("guard", "status", "guard.toml")
    assert code == 0
    assert "spent epsilon 0 of 4.5" in out
    assert "epsilon alone" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("guard", "status", "gard.toml"), "no policy gard.toml"),
        (("guard", "run"), "cannot read node.secret"),
        (("guard", "statsu"), "Did you mean 'status'"),
    ],
)
def test_a_mistake_ends_with_one_sentence(command: Say, site: Path, arguments: tuple[str, ...], words: str) -> None:
    code, _, err = command(*arguments)
    assert code == 2
    assert words in err
    assert "Traceback" not in err


def test_a_version_of_flower_that_was_not_tested_is_refused_until_it_is_forced(
    command: Say, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower_version, "version", lambda _name: "9.1.0")
    code, out, err = command("guard", "run")
    assert (code, out) == (2, "")
    assert "was not tested with flwr 9.1.0, expected flwr" in " ".join(err.split())
    assert "--force" in err
    code, out, err = command("guard", "run", "--force")
    assert (code, "It runs, as --force asks." in " ".join(out.split())) == (2, True)
    assert "cannot read node.secret" in err


def test_a_ledger_that_was_changed_is_a_mistake_too(command: Say, site: Path) -> None:
    command("guard", "status")
    (site / "ledger.jsonl").write_text("nonsense\n")
    code, _, err = command("guard", "status")
    assert code == 2
    assert "line 1 was not written with this ledger's key" in err


def test_check_says_what_a_policy_does_and_touches_no_file(command: Say, site: Path) -> None:
    before = sorted(site.iterdir())
    code, out, err = command("guard", "check", "guard.toml", "--rounds", "2")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "guard.toml is valid."
    assert lines.index("Permits:") < lines.index("- Any app runs.") < lines.index("Refuses:")
    assert lines[-1].startswith("A run of 2 rounds costs epsilon 2.943 at delta 1e-05, within the budget of 4.5.")
    assert sorted(site.iterdir()) == before


def test_check_counts_the_rounds_of_the_policy_and_names_a_mistake_by_its_key(command: Say, site: Path) -> None:
    _, out, _ = command("guard", "check")
    assert "A run of 100 rounds costs" in out
    policy(site, budget={"epsilon": 90.0})
    code, _, err = command("guard", "check")
    assert code == 2
    assert "guard.toml: budget.epsilon: 90 gives no protection" in err


def test_template_writes_an_app_whose_policy_is_valid(command: Say, site: Path) -> None:
    code, out, _ = command("guard", "template", "my-app")
    assert code == 0
    assert "fedsim guard check my-app/guard.toml" in out
    code, out, _ = command("guard", "check", "my-app/guard.toml")
    assert code == 0
    assert "within the budget of 8" in out
    code, _, err = command("guard", "template", "my-app")
    assert code == 2
    assert "my-app exists already" in err


@pytest.mark.parametrize("name", ["run", "status", "check", "template"])
def test_help_has_an_example(command: Say, name: str) -> None:
    code, out, _ = command("guard", name, "--help")
    assert code == 0
    assert f"Example: fedsim guard {name}" in out
