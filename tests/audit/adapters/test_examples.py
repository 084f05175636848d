"""The examples of scenarios/45_audit_kinds, as their README audits them: each gives its control back."""

import os
import re
from pathlib import Path

import pytest

from fedsim.audit import audit_client, verdict
from fedsim.audit.loading import load, load_subject
from fedsim.audit.subject import Subject
from fedsim.core.errors import FedsimError
from fedsim.judgement.policy import Policy
from tests.audit.adapters.recovering import answered
from tests.cli.typed import fedsim

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "scenarios" / "45_audit_kinds"
LEAKS = (
    "opacus_client.py:make_open",
    "peft_client.py:make_client",
    "trainer.py:make_trainer",
    "sklearn_client.py:make_client",
    "sklearn_client.py:make_regressor",
    "lightning_client.py:make_client",
)
pytestmark = pytest.mark.filterwarnings("ignore:Secure RNG turned off:UserWarning")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    monkeypatch.syspath_prepend(str(FOLDER))


def subject_of(target: str) -> Subject:
    if target.startswith("lightning") and "CI" not in os.environ:  # there all of the dev extra is installed
        pytest.importorskip("lightning")
    return load_subject(load(target), target)


@pytest.mark.parametrize(
    "target", [pytest.param(name, marks=pytest.mark.slow if name.startswith("trainer") else ()) for name in LEAKS]
)
def test_one_example_through_a_dense_first_layer_comes_back(target: str) -> None:
    subject = subject_of(target)
    assert subject.notes[0].startswith("Understood: ")
    assert answered(subject, 1) == (1.0, "recovered")


@pytest.mark.slow  # members and defenses are measured by training the app's loop again
def test_the_verdict_on_an_app_is_that_its_example_comes_back() -> None:
    record = audit_client("flower_app", minutes=1, policy=Policy(max_recovered=0.05))
    state, sentence = verdict.answer(record)
    assert state == "recovered"
    assert sentence.startswith("Updates of one image give the image back exactly (1 of 1): 1 update was attacked for ")


@pytest.mark.slow
def test_private_steps_give_nothing_back() -> None:
    assert answered(subject_of("opacus_client.py:make_private"), 4) == (0.0, "withstood")


def test_the_readme_names_every_example() -> None:
    targets = re.findall(r"^fedsim audit (\S+)", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert {*LEAKS, "opacus_client.py:make_private", "flower_app"} == set(targets)


@pytest.mark.parametrize(
    ("target", "message"), [("digits.py:digits", "returned TensorDataset"), ("..", "holds no pyproj")]
)
def test_what_is_no_kind_is_one_sentence(target: str, message: str) -> None:
    with pytest.raises(FedsimError, match=message):
        subject_of(target)


@pytest.mark.slow
def test_a_mistake_ends_the_command_with_2_and_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    done = fedsim("audit", "app", "--minutes", "1", cwd=tmp_path)
    assert done.returncode == 2
    assert "'app' holds no pyproject.toml, so it is not the folder of a Flower app." in done.stderr
    assert "Traceback" not in done.stderr
