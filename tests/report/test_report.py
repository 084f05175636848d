import base64
import csv
import hashlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from fedsim.core.errors import FedsimError
from fedsim.metrics.statistics import summarise
from fedsim.metrics.success import Rule
from fedsim.record import ClientCost, Failure, RoundRecord
from fedsim.record.store import RunFolder
from fedsim.report import build, figures


@pytest.fixture
def report(tmp_path, records, page_of):
    def render(record, arrays=None):
        return page_of(build(records.save(tmp_path, record, arrays)).read_text(encoding="utf-8"))

    yield render
    RunFolder(tmp_path).create(overwrite=True)  # whatever a report consists of belongs to the run
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def typical(tmp_path_factory, records, page_of):
    record, arrays = records.with_arrays(records.typical())
    folder = records.save(tmp_path_factory.mktemp("run"), record, arrays)
    build(folder)
    return record, folder, page_of((folder / "report.html").read_text(encoding="utf-8"))


def banners(page):
    return [attributes["class"] for tag, attributes in page.tags if "banner" in attributes.get("class", "").split()]


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_says_what_was_recovered_by_whom_and_how_sure_that_is(typical):
    _, _, page = typical
    assert (
        "Under an honest-but-curious server that knows the labels and the batch size, 3 of 4 images are recovered "
        "(SSIM > 0.5, 95% interval 30 to 95%) with attack dia. ig alone recovered none: its failure would "
        "have passed for protection. Granted the masks, attack wiig recovers 4 of 4."
    ) in page.text
    assert "safe" not in page.text.lower()
    assert banners(page) == []


def test_sections_come_in_the_readers_order(typical):
    _, _, page = typical
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "h2"]
    expected = "verdict wall arms results threat exceedance curves participation accuracy failures diagnosis reproduce"
    assert ids == expected.split()
    assert page.headings[0] == "h1"
    assert page.headings.count("h1") == 1
    assert page.open == []


def test_is_one_offline_file(typical):
    _, _, page = typical
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster", "action"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes[name][:60])
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", page.html)
    assert "@import" not in page.html
    (script,) = re.findall(r"<script>(.*?)</script>", page.html, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.html
    assert "url(" not in page.html


def test_every_picture_has_words(typical):
    _, _, page = typical
    assert len(page.images) > 20
    assert all(image["alt"].strip() for image in page.images)


def test_is_written_for_phones_printers_and_screen_readers(typical):
    _, _, page = typical
    assert ("html", {"lang": "en"}) in page.tags
    assert any(attributes.get("name") == "viewport" for _, attributes in page.tags)
    assert "@media print" in page.html
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(a["aria-labelledby"] in ids for _, a in page.tags if "aria-labelledby" in a)


def test_scores_match_the_record(typical):
    record, folder, _ = typical
    rows = read_csv(folder / "scores.csv")
    expected = [
        (arm.name, attack.label, str(victim.client), str(item.values["psnr"]))
        for arm in record.arms
        for attack in arm.attacks
        for victim in attack.victims
        for item in victim.scores
    ]
    scored = [row for row in rows if not row["failure"]]
    assert [(row["arm"], row["attack"], row["client"], row["psnr_db"]) for row in scored] == expected
    (failure,) = [row for row in rows if row["failure"]]
    assert (failure["attack"], failure["client"], failure["failure"], failure["success"]) == (
        "dia", "3", "diverged", "False",
    )  # fmt: skip


def test_each_picture_stands_beside_its_data(typical):
    record, folder, _ = typical
    pictures = sorted(path.stem for path in (folder / "figures").glob("*.png"))
    assert pictures == sorted(path.stem for path in (folder / "figures").glob("*.csv"))
    assert {name.split("-")[0] for name in pictures} == {"accuracy", "curves", "exceedance", "participation", "wall"}
    curve = read_csv(folder / "figures" / "curves-1-model-dropout-0.csv")
    assert len(curve) == sum(len(victim.history) for victim in record.arms[0].attacks[0].victims)
    shares = read_csv(folder / "figures" / "exceedance-2-model-dropout-0-5.csv")
    assert max(float(row["share_above"]) for row in shares if row["attack"] == "dia") == 0.75
    assert float(read_csv(folder / "figures" / "accuracy.csv")[0]["test_accuracy"]) == 0.5


def test_shows_everything_that_was_left_out(typical):
    _, _, page = typical
    assert "client 1 no data" in page.text
    assert "model.dropout = 0.5, round 1, attack dia client 3 diverged" in page.text


def test_tells_how_to_run_it_again(typical):
    record, _, page = typical
    environment = record.environment
    for fact in (environment.command, record.scenario_hash, environment.python, "numpy 2.1.0", environment.processor,
                 "2 cores, 1 torch thread", environment.git_commit, "with uncommitted changes", record.started,
                 record.ended, json.dumps(record.scenario["scoring"], indent=2).split("\n")[1].strip()):  # fmt: skip
        assert fact in page.text


def test_what_a_clients_round_took_is_stated_where_it_was_recorded(tmp_path, records, page_of):
    cost = ClientCost(processor_seconds=0.25, peak_memory=400 * 2**20, n=4)
    arms = [records.arm(name, [records.attack("ig", records.recovered())]) for name in ("one", "two")]
    record = records.run([arms[0].model_copy(update={"client_cost": cost}), arms[1]])
    page = page_of(build(records.save(tmp_path, record)).read_text(encoding="utf-8"))
    assert page.text.count("a client's round took 0.25 s of processor time and at most 400 MiB of memory") == 1
    assert page.text.count("a client's round took") == 1


def test_a_guess_that_is_nearer_to_public_data_than_to_the_original_is_marked(tmp_path, records, page_of):
    record, arrays = records.with_arrays(records.run([records.arm("one", [records.attack("ig", records.missed(2))])]))
    assert "The small picture under a guess" not in page_of(page_with(records, tmp_path, record, arrays)).text
    for victim, distance in zip(record.arms[0].attacks[0].victims, (0.1, 0.9), strict=True):
        arrays[f"{victim.arrays}/guesses"][...] = 0.0
        arrays[f"{victim.arrays}/public"] = np.full((1, 1, 12, 12), round(255 * distance), np.uint8)
    page = page_of(page_with(records, tmp_path, record, arrays))
    assert "The small picture under a guess" in page.text
    near = -20 * np.log10(round(25.5) / 255)
    alts = [image["alt"] for image in page.images if image["alt"].startswith("Public picture")]
    assert alts[0] == f"Public picture nearest to this guess, {near:.1f} dB away"
    assert re.findall(r"nearer: [0-9.]+ dB", page.text) == [f"nearer: {near:.1f} dB"]


def page_with(records, folder, record, arrays):
    return build(records.save(folder, record, arrays)).read_text(encoding="utf-8")


def test_the_same_record_gives_the_same_report(typical):
    _, folder, page = typical
    before = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert build(folder).read_text(encoding="utf-8") == page.html
    assert {path.name: path.read_bytes() for path in (folder / "figures").iterdir()} == before
    assert not list(folder.rglob(".*"))


def test_markup_in_a_scenario_is_text(report, records):
    hostile = "<script>alert('x')</script> & <b>bold</b>"
    record = records.run(
        [records.arm(hostile, [records.attack(hostile, records.recovered(1))])],
        scenario=records.scenario(title=hostile, description='"><img src=x>'),
        threat_model=(hostile,),
    )
    record, arrays = records.with_arrays(record)
    page = report(record, arrays)
    assert hostile in page.text
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "b" not in {tag for tag, _ in page.tags}
    assert all(image["src"].startswith("data:") for image in page.images)
    assert any(hostile in image["alt"] for image in page.images)


def test_a_control_that_fails_raises_the_alarm(report, records):
    informed = ("labels", "masks")
    attacks = [records.attack("ig", records.missed()), records.attack("wiig", records.missed(), knows=informed)]
    page = report(records.run([records.arm("a", attacks)]))
    assert banners(page) == ["banner alarm"]
    assert "This report shows nothing about privacy" in page.text
    assert "wiig in a, 0 of 4 images" in page.text
    assert "which is no guarantee. Granted the masks, attack wiig recovers 0 of 4. That control did not" in page.text


def test_an_unprotected_arm_is_a_control(report, records):
    arm = records.arm("plain", [records.attack("ig", records.missed())], dropout=())
    assert banners(report(records.run([arm]))) == ["banner alarm"]
    defended = records.scenario(defenses=[{"name": "noise", "std": 0.1}])
    assert banners(report(records.run([arm], scenario=defended))) == ["banner caution"]


def test_a_sum_is_named_and_is_no_control(report, records):
    """That an attack on a mixture fails does not make it a weak attack."""
    victims = [records.victim(0, [records.item(0, psnr=9.0, ssim=0.1)], clients=(0, 2, 5)), records.failed(0)]
    arm = records.arm("sum", [records.attack("IG", victims)], dropout=())
    page = report(records.run([arm], scenario=records.scenario(threat={"sees": "sum"})))
    assert "round 1, sum of 3 clients" in page.text
    assert "No control was run" in page.text


def test_a_success_elsewhere_softens_a_failed_control(report, records):
    plain = records.arm("plain", [records.attack("sparse", records.missed())], dropout=())
    dropped = records.arm("dropped", [records.attack("sparse", records.recovered())])
    page = report(records.run([plain, dropped]))
    assert banners(page) == ["banner caution"]
    assert "No control succeeded" in page.text


def test_an_attack_that_was_fooled_beside_one_that_was_not_is_named(report, records):
    attacks = [records.attack("ig", records.missed()), records.attack("dia", records.recovered())]
    page = report(records.run([records.arm("a", attacks)]))
    assert "with attack dia. ig alone recovered none: its failure would have passed for protection." in page.text


def test_one_good_control_is_enough(report, records):
    plain = records.arm("plain", [records.attack("ig", records.recovered())], dropout=())
    hidden = records.arm("hidden", [records.attack("ig", records.missed())])
    page = report(records.run([plain, hidden]))
    assert banners(page) == []
    assert (
        "none of 4 images was recovered by the attacks that were tried (ig; SSIM > 0.5, 95% interval 0 to 49%), "
        "which is no guarantee."
    ) in page.text


def test_a_run_without_control_says_so(report, records):
    page = report(records.run([records.arm("a", [records.attack("ig", records.missed())])]))
    assert banners(page) == ["banner caution"]
    assert "No control was run" in page.text


def test_an_arms_values_may_name_a_list_entry(report, records):
    scenario = records.scenario(
        model={"name": "mlp", "dropout": 0}, defenses=[{"name": "noise"}], arms={"defenses.0.std": [0, 1]}
    )
    arm = records.arm("std = 1", [records.attack("ig", records.missed())], values={"defenses.0.std": 1}, dropout=())
    assert banners(report(records.run([arm], scenario=scenario))) == ["banner caution"]


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_an_unfinished_run_says_so(report, records, status):
    record = records.run(
        records.typical().arms[:1], status=status, ended=None, failures=(Failure(who="arm 2", why="out of memory"),)
    )
    page = report(record)
    assert banners(page) == ["banner caution"]
    assert f"This run {'was interrupted' if status == 'interrupted' else 'failed'}" in page.text
    assert "out of memory" in page.text


def test_a_replay_that_differs_is_not_hidden(report, records):
    arm = records.typical().arms[0].model_copy(update={"replay_matches": False})
    page = report(records.run([arm]))
    assert "wrong truth" in page.text
    assert "The truth of this score is unsure: what the clients did could not be repeated." in page.text
    assert "unsure" not in report(records.typical()).text


def test_the_sentence_matches_one_victim(report, records):
    one = report(records.run([records.arm("a", [records.attack("ig", records.missed(1))])]))
    assert "the one image was not recovered by the attacks that were tried" in one.text


def test_nothing_recorded_yet(report, records):
    page = report(records.run([], status="interrupted", ended=None))
    assert "No arm of this run was recorded" in page.text


def test_an_arm_without_attacks(report, records):
    page = report(records.run([records.arm("train only", [])]))
    assert "No attack was tried , so nothing can be said about its privacy." in page.text


def test_no_round_was_evaluated(report, records, tmp_path):
    page = report(records.run([records.arm("a", [records.attack("ig", records.recovered())], rounds=())]))
    assert "No round was evaluated" in page.text
    assert not (tmp_path / "figures" / "accuracy.png").exists()


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
        RoundRecord(round=number, cohort=tuple(range(asked)), training_loss=1.0, failures=tuple(
            Failure(who=f"client {client}", why=f"why {cause}", cause=cause) for client, cause in enumerate(causes)
        ))
        for number, (asked, causes) in enumerate(rounds, 1)
    ))  # fmt: skip


def test_who_took_part_is_told_by_round_and_cause(report, records, tmp_path):
    arm = losing(records, (4, ["dropout", "dropout"]), (5, []), (3, ["crash", "late", "no reply"]), (0, []))
    page = report(records.run([arm]))
    assert (
        "Of 12 updates that the server asked for in 4 rounds, 7 counted; lost: 1 crash, 2 dropout, 1 late, 1 no reply. "
        "Nobody counted in 2 rounds, which kept the weights."
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


def test_the_rarest_of_many_classes_are_added_up(records):
    counts = [[client + 100 * (label % 50 == 7) for label in range(100)] for client in range(1, 4)]
    segments = dict(figures._segments(records.partition(counts)))
    assert len(segments) == 21
    assert segments["class 7"] == [101, 102, 103]
    assert segments["class 57"] == [101, 102, 103]
    assert segments["other classes"] == [80, 160, 240]


@pytest.mark.parametrize("partition", [None, [[3, 4]]])
def test_one_client_or_an_earlier_record_owns_without_a_section(report, records, partition):
    page = report(owning(records, partition and records.partition(partition)))
    assert "Who owns what" not in page.text


def test_attacks_that_never_applied_have_a_reason_instead_of_numbers(report, records):
    victims = [records.failed(c, "needs a bias") for c in range(3)]
    page = report(records.run([records.arm("a", [records.attack("analytic", victims)])]))
    assert "No attack gave a result (analytic)" in page.text
    assert "no result: needs a bias" in page.text
    assert "attack analytic client 0, 1, 2 needs a bias" in page.text


def test_attacks_without_victims(report, records):
    page = report(records.run([records.arm("a", [records.attack("ig", [])])], status="interrupted"))
    assert "no victim was attacked" in page.text


def test_a_search_without_a_history_or_with_one_a_logarithm_cannot_show(report, records):
    silent = records.victim(0, [records.item(psnr=20, ssim=0.6)], history=()).model_copy(
        update={"objective": None, "objective_at_truth": None}
    )
    broken = records.victim(1, [records.item(psnr=20, ssim=0.2)], history=((1, 0.0), (2, -1.0)))
    page = report(records.run([records.arm("a", [records.attack("ig", [silent, broken])])]))
    assert "No search left a history" in page.text


def test_a_summary_in_the_record_is_used(report, records):
    arm = records.typical().arms[0]
    summary = summarise(arm.attacks[0].victims, Rule.of("ssim", 0.5), seed=3, resamples=200)
    stored = arm.attacks[0].model_copy(update={"summary": summary})
    with_summary = report(records.run([arm.model_copy(update={"attacks": (stored,)})]))
    assert with_summary.html == report(records.run([arm])).html


@pytest.mark.parametrize("metric", [("psnr", 20.0, "PSNR > 20 dB"), ("mse", 0.01, "MSE < 0.01")])
def test_the_scenarios_rule_of_success_is_named(report, records, metric):
    name, threshold, words = metric
    scoring = {"metric": name, "threshold": threshold, "resamples": 200}
    page = report(records.run(records.typical().arms, scenario=records.scenario(scoring=scoring)))
    assert words in page.text


@pytest.mark.parametrize(("shape", "colours"), [((1, 12, 12), 1), ((3, 16, 16), 3), ((2, 8, 8), 1)])
@pytest.mark.parametrize("batch", [1, 3])
def test_grey_and_colour_pictures_in_batches(report, records, shape, colours, batch):
    record = records.run([records.arm("a", [records.attack("ig", records.recovered(2, batch))])])
    record, arrays = records.with_arrays(record, shape)
    page = report(record, arrays)
    pictures = [image for image in page.images if image["src"].startswith("data:image/png")]
    assert len(pictures) == 2 * 2 * batch
    assert f"{2 * batch} of {2 * batch} examples" in page.text
    assert ("image 2" in page.text) == (batch == 3)
    if batch == 3:
        assert "6 of 6 images of 2 updates are recovered" in page.text


def test_of_many_examples_the_percentiles_are_shown(report, records):
    record, arrays = records.with_arrays(
        records.run([records.arm("a", [records.attack("ig", records.recovered(9))]),
                     records.arm("b", [records.attack("ig", records.missed(9))])])
    )  # fmt: skip
    page = report(record, arrays)
    assert page.text.count("5 of 9 examples") == 2
    shown = re.findall(r"Guess of attack ig for round 1, client (\d)", page.html)
    assert shown == ["0", "2", "4", "6", "8"] * 2


def test_broken_pixels_do_not_break_the_report(report, records):
    record, arrays = records.with_arrays(records.run([records.arm("a", [records.attack("ig", records.missed(1))])]))
    arrays["0/0/0/guesses"][...] = np.nan
    assert len(report(record, arrays).images) > 1


def test_more_arms_and_attacks_than_colours(report, records):
    arms = [
        records.arm(f"arm {a}", [records.attack(f"attack {i}", records.recovered(1)) for i in range(9)])
        for a in range(2)
    ]
    assert "attack 8" in report(records.run(arms)).text


def test_missing_and_foreign_records_are_named(tmp_path):
    with pytest.raises(FedsimError, match=r"no record\.json"):
        build(tmp_path)
    (tmp_path / "record.json").write_text('{"schema_version": 7}', encoding="utf-8")
    with pytest.raises(FedsimError, match="schema"):
        build(tmp_path)


def test_an_unwritable_page_leaves_the_old_one(tmp_path, records, monkeypatch):
    folder = records.save(tmp_path, records.run([]))
    page = build(folder).read_bytes()

    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(FedsimError, match="disk full"):
        build(folder)
    assert (folder / "report.html").read_bytes() == page
    assert not list(folder.rglob(".*"))


def test_importing_the_report_does_not_load_matplotlib():
    code = "import sys, fedsim.report; sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_guarantee_stands_with_everything_that_it_needs_and_without_one_there_is_no_section(report, records):
    page = report(records.run([records.arm("noisy", [], guarantees=(records.guarantee(),))]))
    stated = (
        "noisy dp-sgd epsilon 1.84 at delta 1e-05 (RDP 2.1) one record of a client, one more or less Poisson sampling "
        "at rate 0.01 1000 steps of noise multiplier 1 in 10 rounds, those of the client that was asked most often "
        "the server"
    )
    assert stated in page.text
    assert "What was guaranteed" not in report(records.run([records.arm("plain", [])])).text
