"""Section with the command and the environment of a record, for its repetition."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.record import Environment
from fedsim.report.document import Code, Definitions, Paragraph, Section, paragraph

Fact = tuple[str, Paragraph]
"""A term and its value."""

AGAIN = "again"  # place of the section, which terminals omit


def repeat_section(environment: Environment, seed: str) -> Section:
    """Return the section with command, seed and environment."""
    facts = (("Seed", paragraph(seed)), *environment_facts(environment))
    return Section("Run it again", (Code(environment.command), Definitions(facts)), AGAIN)


def environment_facts(environment: Environment) -> Iterator[Fact]:
    """Yield commit, versions and machine of an environment."""
    yield "Git commit", Paragraph(commit_spans(environment))
    yield "Python", paragraph(environment.python)
    yield "Versions", paragraph(", ".join(f"{name} {version}" for name, version in environment.versions.items()))
    yield "Platform", paragraph(environment.platform)
    threads = f"{environment.torch_threads} torch thread{'s' if environment.torch_threads != 1 else ''}"
    yield "Processor", paragraph(f"{environment.processor}, {environment.cores} cores, {threads}")


def commit_spans(environment: Environment) -> tuple[str | Code, ...]:
    """Return the commit of an environment, and whether the checkout differed from it."""
    if not environment.git_commit:
        return ("not in a repository",)
    return (Code(environment.git_commit), *((" with uncommitted changes",) if environment.git_dirty else ()))
