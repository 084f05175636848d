"""Groups of examples: what a user may name, and that each example is found again in its group."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from fedsim.audit import groups, members
from fedsim.audit.record import GROUPS, KNOWS
from fedsim.audit.single_client import world_of
from fedsim.audit.subject import CheckedSubject, Subject, check_subject
from fedsim.audit.training import train
from fedsim.audit.update_attacks import UpdateAttacker, updates
from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, Reconstruction
from fedsim.questions.base import QuestionContext
from tests.audit.subjects import plan, world

ROWS = torch.rand(80, 6, generator=torch.Generator().manual_seed(4))


def subject(group: groups.Grouping) -> CheckedSubject:
    rows = [
        {"features": row, "labels": row[0].gt(0.5).long(), "sex": "mf"[number % 2], "age": number}
        for number, row in enumerate(ROWS)
    ]
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    return check_subject(Subject(model, None, DataLoader(rows, 7), group=group), "test")  # pyright: ignore[reportArgumentType]


def named(own: CheckedSubject) -> list[str]:
    (named,) = own.groups[1:]
    data = own.dataset
    return named.of(Batch.concat([data.train, data.test]))


def test_a_key_of_the_loaders_mappings_groups_its_examples() -> None:
    own = subject("sex")
    assert [group.name for group in own.groups] == ["class", "sex"]
    assert named(own) == ["sex m", "sex f"] * 40


def test_a_number_names_the_column_of_a_table_and_many_values_are_cut_at_quartiles() -> None:
    found = named(subject("3"))
    assert len(set(found)) == 4
    assert {found.count(name) for name in set(found)} == {20}
    lowest = found[int(ROWS[:, 3].argmin())]
    assert lowest.startswith(f"column 3, {float(ROWS[:, 3].min()):.3g} to ")
    ranks = ROWS[:, 3].argsort().argsort()
    assert all((name == lowest) == (rank < 20) for name, rank in zip(found, ranks, strict=True))


def test_a_value_on_a_quartile_is_in_the_group_that_ends_there() -> None:
    assert groups._names("age", range(13)) == (
        ["age, 0 to 3"] * 4 + ["age, 3 to 6"] * 3 + ["age, 6 to 9"] * 3 + ["age, 9 to 12"] * 3
    )
    assert groups._names("age", [0.5, *[2] * 20]) == ["age 0.5", *["age 2"] * 20]


def test_a_function_of_what_the_loader_yields_groups_too() -> None:
    assert named(subject(lambda item: item["age"] >= 30)) == ["group False"] * 30 + ["group True"] * 50


def fail(_item: Any) -> list[str]:
    raise LookupError("no key")


@pytest.mark.parametrize(
    ("group", "told"),
    [
        ("sx", "has no column 'sx' to group by. Did you mean 'sex'?"),
        ("6", "has no column '6' to group by"),
        (lambda _item: ["a"], "has 1 values to group 7 examples by, expected a value for each example"),
        ("features", "expected a value for each example"),
        (fail, "the function that groups the loader of 'test' failed: LookupError: no key"),
    ],
)
def test_what_groups_nothing_is_answered_in_one_sentence(group: groups.Grouping, told: str) -> None:
    with pytest.raises(FedsimError) as caught:
        subject(group)
    assert told in str(caught.value)


def test_every_attacked_example_has_the_group_of_its_original() -> None:
    own = subject("sex")
    at = world(own, 4)
    seen = next(updates(at))
    truth = seen.truth.original_batches[0]
    found = Reconstruction.of(truth.inputs.flip(0), truth.labels.flip(0))
    record = UpdateAttacker(KNOWS, lambda _said: None, groups=own.groups)._record(seen, found, "1", QuestionContext())
    assert [item.values["row_exact"] for item in record.scores] == [1.0] * 4
    assert [item.group for item in record.scores] == [own.groups[1].of(truth)[item.index] for item in record.scores]
    bare = UpdateAttacker(KNOWS, lambda _said: None)._record(seen, found, "1", QuestionContext())
    assert [item.group for item in bare.scores] == [None] * 4


def test_membership_is_compared_within_classes_and_groups() -> None:
    own = subject("sex")
    at = world_of(own, plan(), 20)
    training = train(at, 3, 60.0)
    cases = members.cases_of(training, QuestionContext())
    attacks = members.attacks_without_shadows()
    findings = list(members.judge_within(60.0, attacks, cases, training, lambda _said: None))
    by_class, by_sex = (members.compare_groups(findings, cases, groups) for groups in own.groups)
    assert {finding.scope["by"] for finding in by_class} == {"class"}
    assert [finding.scope["group"] for finding in by_sex] == ["sex f", "sex m"]
    assert all(finding.n >= 10 and finding.p_value is not None for finding in by_sex)
    best = max(findings, key=lambda one: figure.value if (figure := one.figures.get("auc")) else 0.0)
    assert {finding.label for finding in (*by_class, *by_sex)} == {f"AUC of {best.label}"}
    assert {finding.question for finding in by_sex} == {GROUPS}
