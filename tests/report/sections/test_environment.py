"""The section to repeat a command names commit, versions and machine."""

import pytest

from fedsim.report.document import Code, Definitions
from fedsim.report.sections.environment import AGAIN, environment_facts, repeat_section
from tests.report.records import ENVIRONMENT


def test_command_and_seed_come_before_the_environment() -> None:
    section = repeat_section(ENVIRONMENT, "7, as given")
    command, facts = section.blocks
    assert section.place == AGAIN
    assert command == Code(ENVIRONMENT.command)
    assert isinstance(facts, Definitions)
    assert [(term, value.text) for term, value in facts.pairs][:1] == [("Seed", "7, as given")]
    assert [term for term, _ in facts.pairs][1:] == [term for term, _ in environment_facts(ENVIRONMENT)]


@pytest.mark.parametrize(
    ("commit", "is_dirty", "text"),
    [
        ("abc", False, "abc"),
        ("abc", True, "abc with uncommitted changes"),
        ("abc", None, "abc"),
        (None, None, "not in a repository"),
    ],
)
def test_the_commit_says_whether_the_checkout_differed(commit: str | None, is_dirty: bool | None, text: str) -> None:
    made = ENVIRONMENT.model_copy(update={"git_commit": commit, "git_dirty": is_dirty})
    assert dict(environment_facts(made))["Git commit"].text == text


@pytest.mark.parametrize(("threads", "text"), [(1, "1 torch thread"), (3, "3 torch threads")])
def test_every_version_and_the_machine_are_named(threads: int, text: str) -> None:
    made = ENVIRONMENT.model_copy(
        update={"versions": {"numpy": "2.1", "torch": "2.9"}, "cores": 4, "torch_threads": threads, "processor": "CPU"}
    )
    facts = {term: value.text for term, value in environment_facts(made)}
    assert facts["Versions"] == "numpy 2.1, torch 2.9"
    assert facts["Processor"] == f"CPU, 4 cores, {text}"
