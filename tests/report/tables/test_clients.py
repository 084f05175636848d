"""Who owned what, who took part, and what was left out."""

import pytest

from fedsim.record import Failure, RoundRecord
from tests.report.reading import read_csv


def test_shows_everything_that_was_left_out(typical):
    _, _, page = typical
    assert "client 1 no data" in page.text
    assert "model.dropout = 0.5, round 1, attack dia client 3 diverged" in page.text


def owning(records, *partitions):
    return records.run([
        records.arm(f"arm {index}", [records.attack("ig", records.recovered(1))], partition=partition)
        for index, partition in enumerate(partitions)
    ])  # fmt: skip


def test_who_owns_what_is_shown_once_for_all_arms_that_share(report, records, tmp_path):
    partition = records.partition([[3, 0, 7], [1, 1, 0], [0, 0, 25]])
    page = report(owning(records, partition, partition))
    assert "Who owns what" in page.text
    assert "3 clients, scheme dirichlet: each owns between 2 and 25 examples, median 10." in page.text
    assert "The picture shows the first" not in page.text
    (picture,) = [image for image in page.images if image["alt"].startswith("Examples of each class")]
    assert "each owns between 2 and 25 examples" in picture["alt"]
    rows = read_csv(tmp_path / "figures" / "partition-1-arm-0-arm-1.csv")
    assert [(row["client"], row["class"], row["examples"]) for row in rows[:4]] == [
        ("0", "class 0", "3"), ("0", "class 1", "0"), ("0", "class 2", "7"), ("1", "class 0", "1"),
    ]  # fmt: skip
    assert len(rows) == 9


def test_arms_that_share_data_out_differently_are_told_apart(report, records):
    page = report(owning(records, records.partition([[5, 5]] * 2), records.partition([[1, 0]] * 2, scheme="iid")))
    assert "arm 0: 2 clients, scheme dirichlet: each owns 10 examples." in page.text.replace(" :", ":")
    assert "arm 1: 2 clients, scheme iid: each owns 1 example." in page.text.replace(" :", ":")


def test_of_a_large_population_the_first_are_shown(report, records):
    partition = records.partition([[5, 5]] * 60, scheme="resampled", clients=1_000_000, clients_measured=1000)
    page = report(owning(records, partition))
    sentence = "1,000,000 clients, scheme resampled: the first 1,000 own 10 examples. The picture shows the first 40."
    assert sentence in page.text


def losing(records, *rounds):
    """An arm whose rounds have (clients asked, causes of those that did not count)."""
    return records.arm("a", [], rounds=tuple(
        RoundRecord(round=number, cohort=tuple(range(asked)), participants=tuple(range(len(causes), asked)),
                    training_loss=1.0, failures=tuple(
            Failure(subject=f"client {client}", reason=f"why {cause}", cause=cause) 
            for client, cause in enumerate(causes)
        ))
        for number, (asked, causes) in enumerate(rounds, 1)
    ))  # fmt: skip


def test_who_took_part_is_told_by_round_and_cause(report, records, tmp_path):
    arm = losing(records, (4, ["dropout", "dropout"]), (5, []), (3, ["crash", "late", "no reply"]), (0, []))
    page = report(records.run([arm]))
    assert (
        "Of 12 updates requested in 4 rounds, 7 counted; lost: 1 crash, 2 dropout, 1 late, 1 no reply. "
        "No update counted in 2 rounds, which kept the weights."
    ) in page.text
    assert "client 0, client 1 why dropout" in page.text
    rows = read_csv(tmp_path / "figures" / "participation-1-a.csv")
    assert [(row["asked"], row["counted"], row["dropout"], row["no_reply"]) for row in rows] == [
        ("4", "2", "2", "0"), ("5", "5", "0", "0"), ("3", "0", "0", "1"), ("0", "0", "0", "0"),
    ]  # fmt: skip
    (picture,) = [image for image in page.images if image["alt"].startswith("Updates that counted")]
    assert "2 dropout" in picture["alt"]


def test_a_run_in_which_everybody_took_part_says_nothing_about_it(report, records):
    assert "Who took part" not in report(records.run([losing(records, (4, []), (4, []))])).text


@pytest.mark.parametrize("partition", [None, [[3, 4]]])
def test_one_client_or_an_earlier_record_owns_without_a_section(report, records, partition):
    page = report(owning(records, partition and records.partition(partition)))
    assert "Who owns what" not in page.text
