"""A mistake on the command line is told in one sentence that says what to type instead."""

from pathlib import Path

import pytest

from tests.cli.typed import Say

SCENARIO = """title = "t"
data = { name = "digits" }
model = { name = "mlp", width = 8, depth = 1 }
federation = { clients = 2, batch_size = 1 }
attacks = [{ name = "closed-form-linear" }]
"""


@pytest.fixture
def folder(here: Path) -> Path:
    (here / "s.toml").write_text(SCENARIO)
    return here


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("run s.toml --set threat.knows=labels", 's.toml: threat.knows: expected a list, as in ["labels"], got'),
        ('run s.toml --set threat.knows=["lables"]', "got 'lables'. Did you mean 'labels'?"),
        (
            "run s.toml --resume --overwrite",
            "--resume continues a run and --overwrite replaces it: pass only one of the two.",
        ),
        ("run nofile.toml", "no scenario file nofile.toml. Known: bin.toml, s.toml."),
        ("list atacks", "unknown list 'atacks'. Did you mean 'attacks'?"),
        ("report nope", "no folder nope."),
        ("new attack dropout-inversion", "attack 'dropout-inversion' exists already. Choose another name"),
        (
            "new attack dia",
            "attack 'dia' exists already, which is another name of 'dropout-inversion'. Choose another name",
        ),
        ("demo --live --host 192.0.2.1", "Choose another --host."),  # an address for documentation: no machine has it
    ],
)
def test_the_sentence_says_what_to_type(command: Say, folder: Path, words: str, expected: str) -> None:
    (folder / "bin.toml").write_text("")
    code, _, complaint = command(*words.split())
    assert code == 2
    assert expected in complaint.replace("\n", " ")


def test_a_run_that_resumes_nothing_says_that_it_begins(command: Say, folder: Path) -> None:
    code, output, _ = command("run", "s.toml", "--resume")
    assert code == 0
    assert "results/s holds no run to resume, so it begins anew." in output


def test_a_word_of_the_glossary_is_shown_where_no_method_has_its_name(command: Say) -> None:
    code, output, _ = command("show", "Recovered")
    assert code == 0
    assert output.startswith("recovered: State of an attacked example:")


def test_the_list_of_commands_cuts_no_sentence(command: Say) -> None:
    code, output, _ = command("--help")
    assert code == 0
    assert "..." not in output.partition("Commands:")[2]
