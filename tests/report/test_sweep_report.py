"""The report of a sweep: what it claims, what it refuses to claim, and that nothing in it can hurt."""

import base64
import csv
import hashlib
import io
import itertools
import re
import tomllib

import numpy as np
import pytest
from scipy.stats import beta

from fedsim.core.errors import FedsimError
from fedsim.experiment.runner import scenario_hash
from fedsim.metrics.comparison import holm
from fedsim.record import ClientCost, Interval
from fedsim.report.sweep import build
from fedsim.report.sweep.cells import gather
from fedsim.report.sweep.curves import average_roc, shares_above
from fedsim.report.sweep.guarantees import floors
from fedsim.report.sweep.pareto import Place, dominate, frontier
from fedsim.report.sweep.pictures import blind, representatives
from fedsim.report.sweep.points import points
from fedsim.report.sweep.reproduce import environments, toml
from fedsim.report.sweep.sensitivity import knobs
from fedsim.report.sweep.verdict import banners, verdicts
from fedsim.scenario import parse

POLICY = {"max_recognisable": 0.2, "max_accuracy_loss": 0.05}


def estimated(folder):
    sweep = gather(folder)
    return sweep, points(sweep)


def judged(folder):
    sweep, found = estimated(folder)
    (verdict,) = verdicts(sweep, found)
    return verdict, [banner.level for banner in banners(sweep, found)]


@pytest.fixture(scope="module")
def typical(tmp_path_factory, records, sweeps, page_of):
    folder = tmp_path_factory.mktemp("sweep") / "s"
    runs = sweeps.typical(records)
    record, arrays = records.with_arrays(runs[0][2])
    runs = [(name, seed, records.with_arrays(one)[0]) for name, seed, one in runs]
    sweeps.save(folder, records, runs, policy=POLICY, arrays=arrays)
    assert record.arms
    return folder, page_of(build(folder).read_text(encoding="utf-8"))


def test_the_setting_that_keeps_the_policy_is_named_with_its_cost_and_no_promise(typical):
    _, page = typical
    assert (
        "gradient-noise 1.0 keeps every threshold It loses 2.0 +/- 0.0 points of accuracy (3 seeds) and leaves 0% of "
        "the images recognisable to ig (95% interval 0 to 14%, 24 updates)."
    ) in page.text
    assert "Not a guarantee: the attacks that were tried failed, another may succeed." in page.text


def test_sections_come_in_the_readers_order(typical):
    _, page = typical
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "h2"]
    expected = "verdict threat pareto table exceedance wall health sensitivity cost failures reproduce"
    assert ids == expected.split()
    assert page.headings.count("h1") == 1
    assert page.open == []


def test_it_is_one_offline_file_whose_only_script_is_our_own(typical):
    _, page = typical
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster", "action"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, name)
        assert not any(name.startswith("on") for name in attributes)
    (script,) = re.findall(r"<script>(.*?)</script>", page.html, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.html
    assert "default-src 'none'" in page.html


def test_every_picture_has_words_and_its_data_beside_it(typical):
    folder, page = typical
    assert len(page.images) > 8
    assert all(image["alt"].strip() for image in page.images)
    names = {path.stem for path in (folder / "figures").glob("*.png")}
    assert {"pareto-strongest-attack", "pareto-median-attack", "exceedance-gradient-noise", "sensitivity"} <= names
    for name in names:
        assert (folder / "figures" / f"{name}.svg").exists()
        with (folder / "figures" / f"{name}.csv").open() as file:
            assert len(list(csv.DictReader(file))) > 0


def test_the_table_can_be_sorted_and_downloaded_and_agrees_with_the_csv(typical):
    folder, page = typical
    (link,) = [attributes for tag, attributes in page.tags if tag == "a" and "download" in attributes]
    text = base64.b64decode(link["href"].partition("base64,")[2]).decode()
    assert text == (folder / "figures" / "table.csv").read_text()
    rows = {row["setting"]: row for row in csv.DictReader(io.StringIO(text))}
    assert list(rows) == ["none", "gradient-noise 0.01", "gradient-noise 1.0"]
    assert float(rows["gradient-noise 1.0"]["utility_loss"]) == pytest.approx(0.02)
    assert float(rows["gradient-noise 1.0"]["difference"]) == -1.0
    assert float(rows["none"]["success"]) == 1.0
    keys = [attributes["data-sort"] for tag, attributes in page.tags if "data-sort" in attributes]
    assert len(keys) == 3 * 12
    assert "inf" not in keys


def test_it_is_written_for_phones_printers_and_screen_readers(typical):
    _, page = typical
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    assert "@media print" in page.html
    tables = page.html.count("<table")
    assert page.html.count('role="region" tabindex="0"') == tables


def test_the_summary_says_the_same_in_markdown(typical):
    folder, _ = typical
    text = (folder / "report.md").read_text()
    assert "**gradient-noise 1.0 keeps every threshold.**" in text
    assert "- images recognisable: 0.0% (0.0 to 13.8), allowed 20%: kept" in text
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 2 + 3


def test_the_same_sweep_gives_the_same_report(typical):
    folder, page = typical
    assert build(folder).read_text(encoding="utf-8") == page.html


def test_the_cost_of_a_clients_round_is_shown_where_it_was_recorded(tmp_path, records, sweeps, page_of):
    taken = [ClientCost(processor_seconds=s, peak_memory=m * 2**20, n=8) for s, m in ((0.2, 300), (0.4, 500))]
    runs = [
        ("none", seed, sweeps.run(records, "none", seed, records.recovered(2), client_cost=cost))
        for seed, cost in enumerate(taken)
    ]
    runs.append(("gradient-noise 1.0", 0, sweeps.run(records, "gradient-noise 1.0", 0, records.missed(2))))
    _, found = estimated(sweeps.save(tmp_path, records, runs))
    assert (found[0].processor_seconds, found[0].peak_memory) == (pytest.approx(0.3), 500 * 2**20)
    assert (found[1].processor_seconds, found[1].peak_memory) == (None, None)
    page = page_of(build(tmp_path).read_text(encoding="utf-8"))
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page.html.partition('id="cost"')[2].partition("</table>")[0])
    assert (cells[2:4], cells[8:10]) == (["0.3", "500"], ["\N{EN DASH}"] * 2)


def test_environments_that_differ_in_the_commit_alone_are_one(tmp_path, records, sweeps, page_of):
    changes = [{}, {"git_dirty": False}, {}, {"git_commit": "beef" * 4}, {"git_commit": None}, {"python": "3.12.1"}]
    runs = [
        ("none", seed, one.model_copy(update={"environment": one.environment.model_copy(update=change)}))
        for seed, change in enumerate(changes)
        for one in [run_of(records, sweeps, seed)]
    ]
    folder = sweeps.save(tmp_path, records, runs)
    first, second = environments(gather(folder))
    assert [(c.name, c.is_dirty, c.records) for c in first.commits] == [
        ("0123456789abcdef", True, 2),
        ("0123456789abcdef", False, 1),
        ("beef" * 4, True, 1),
        (None, True, 1),
    ]
    assert (first.records, second.records, len(second.commits)) == (5, 1, 1)
    page = page_of(build(folder).read_text(encoding="utf-8"))
    assert page.text.count("fedsim run scenarios/dropout.toml") == 2
    assert "0123456789abcdef with uncommitted changes: 2 records" in page.text


def run_of(records, sweeps, seed):
    return sweeps.run(records, "none", seed, records.recovered(2))


def test_without_thresholds_nothing_is_judged(tmp_path, records, sweeps):
    verdict, _ = judged(sweeps.save(tmp_path, records, sweeps.typical(records)))
    assert (verdict.light, verdict.checks) == ("none", ())
    assert verdict.finding == "No thresholds are stated, so nothing is judged"


def test_thresholds_that_nothing_meets_are_said_so_with_what_comes_nearest(tmp_path, records, sweeps):
    folder = sweeps.save(tmp_path, records, sweeps.typical(records), policy={**POLICY, "max_accuracy_loss": 0.015})
    verdict, _ = judged(folder)
    assert verdict.finding == "No setting keeps every threshold"
    assert "comes nearest, and misses: accuracy loss 2.0% (2.0 to 2.0), allowed 1.5%" in verdict.text
    assert [check.light for check in verdict.checks] == ["kept", "broken"]


def test_too_few_victims_are_unsure(tmp_path, records, sweeps):
    verdict, _ = judged(sweeps.save(tmp_path, records, sweeps.typical(records), policy={"max_recognisable": 0.05}))
    assert verdict.light == "unsure"
    assert "more seeds or victims would tell" in verdict.text


def test_what_was_not_measured_or_not_guaranteed_is_not_kept(tmp_path, records, sweeps):
    policy = {"max_membership_tpr": 0.5, "max_epsilon": 8.0}
    verdict, _ = judged(sweeps.save(tmp_path, records, sweeps.typical(records), policy=policy))
    assert [(check.measured, check.light) for check in verdict.checks] == [
        ("nothing", "not measured"),
        ("no guarantee", "broken"),
    ]


def test_a_guarantee_is_stated_with_whom_it_holds_against(tmp_path, records, sweeps):
    runs = sweeps.typical(records, seeds=(1,))
    guarded = sweeps.run(records, "gradient-noise 2.0", 1, records.missed(8), guarantees=(records.guarantee(),))
    folder = sweeps.save(tmp_path, records, [*runs, ("dp 2.0", 1, guarded)], policy={"max_epsilon": 2.0})
    verdict, _ = judged(folder)
    assert verdict.finding == "dp 2.0 keeps every threshold"
    assert verdict.caveat.startswith("Guaranteed: epsilon 1.84 at delta 1e-05")


def test_a_control_that_fails_forbids_any_verdict(tmp_path, records, sweeps, page_of):
    runs = [(name, 1, sweeps.run(records, name, 1, records.missed(8))) for name in ("none", "gradient-noise 1.0")]
    folder = sweeps.save(tmp_path, records, runs, policy=POLICY)
    verdict, levels = judged(folder)
    assert levels == ["alarm"]
    assert (verdict.finding, verdict.light) == ("Nothing can be judged", "none")
    page = page_of(build(folder).read_text())
    assert ("div", {"class": "banner alarm", "role": "alert"}) in page.tags


def test_a_sweep_without_control_says_so(tmp_path, records, sweeps):
    runs = [("gradient-noise 1.0", 1, sweeps.run(records, "gradient-noise 1.0", 1, records.missed(8)))]
    assert judged(sweeps.save(tmp_path, records, runs))[1] == ["caution"]


def test_markup_in_names_is_text(tmp_path, records, sweeps, page_of):
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    runs = [("none", 1, sweeps.run(records, "none", 1, records.recovered(4))), (hostile, 1, None)]
    runs.append((hostile, 2, sweeps.run(records, "gradient-noise 1.0", 2, records.missed(4))))
    folder = sweeps.save(
        tmp_path, records, runs, title=f"{hostile} | [x](javascript:alert(3))", description=f"why? {hostile}"
    )
    page = page_of(build(folder).read_text(encoding="utf-8"))
    assert page.text.count("<script>alert(1)</script>") >= 3
    assert f"why? {hostile}" in page.text
    assert page.html.count("<script>") == 1
    assert not any("onerror" in attributes for _, attributes in page.tags)
    text = (folder / "report.md").read_text()
    assert re.search(r"(?<!\\)[<>]", text) is None
    assert re.search(r"(?<!\\)\]\(", text) is None
    assert {line.count("|") - line.count(r"\|") for line in text.splitlines() if line.startswith("| ")} == {9}


def test_an_empty_sweep_has_a_report_that_says_why(tmp_path, records, sweeps, page_of):
    folder = sweeps.save(tmp_path, records, [("none", 1, None), ("none", 2, None)])
    page = page_of(build(folder).read_text())
    assert "This sweep is empty" in page.text
    assert page.text.count("not finished yet") == 2
    assert "nothing can be said about privacy" in page.text


def test_broken_and_older_records_are_named_left_out_and_kept(tmp_path, records, sweeps, page_of):
    runs = sweeps.typical(records, seeds=(1,))
    whole = runs[1][2].model_dump_json(indent=1)
    half, older = whole[: len(whole) // 2], whole.replace('"schema_version": 2', '"schema_version": 0')
    folder = sweeps.save(tmp_path, records, [runs[0], ("half", 1, half), ("older", 1, older), ("junk", 1, "\0junk")])
    page = page_of(build(folder).read_text())
    assert "3 of 4 runs are missing" in page.text
    assert re.search(r"run defense half \S*record\.json cannot be read", page.text)
    assert re.search(r"run defense older \S*record\.json has schema version 0, expected 2", page.text)
    assert re.search(r"run defense junk \S*record\.json cannot be read", page.text)
    kept = [path.read_text() for path in sorted((folder / "runs").glob("*/record.json"))]
    assert kept[1:] == [half, older, "\0junk"]


def test_a_folder_of_neither_is_refused(tmp_path):
    with pytest.raises(FedsimError, match=r"holds no record\.json"):
        build(tmp_path)


def test_losses_and_differences_are_paired_with_the_control(tmp_path, records, sweeps):
    runs = []
    for seed, (before, after) in enumerate(((0.90, 0.85), (0.80, 0.78), (0.95, 0.85)), 1):
        runs.append(("none", seed, sweeps.run(records, "none", seed, records.recovered(4), accuracy=before)))
        mixed = [*records.recovered(2), *records.missed(4)[2:]]
        runs.append(("noise", seed, sweeps.run(records, "gradient-noise 1", seed, mixed, accuracy=after)))
    _, found = estimated(sweeps.save(tmp_path, records, runs))
    noise = found[1]
    assert noise.loss.value == pytest.approx((0.05 + 0.02 + 0.10) / 3)
    assert noise.fewer.value == pytest.approx(-0.5)
    assert noise.p == pytest.approx(2 / 2**6)
    assert found[0].fewer is None


def test_p_values_are_adjusted_for_all_settings(tmp_path, records, sweeps):
    one = sweeps.typical(records, seeds=(1,))
    names = [f"gradient-noise {scale}" for scale in range(5)]
    many = [("none", 1, sweeps.run(records, "none", 1, records.recovered(8)))]
    many += [(name, 1, sweeps.run(records, name, 1, records.missed(8))) for name in names]
    raw = 2 / 2**8
    assert estimated(sweeps.save(tmp_path / "one", records, one))[1][2].p == pytest.approx(holm([1.0, raw])[1])
    assert estimated(sweeps.save(tmp_path / "many", records, many))[1][5].p == pytest.approx(5 * raw)


def test_the_strongest_attacker_counts_and_one_who_knows_the_masks_does_not(tmp_path, records, sweeps):
    masks = records.attack("wiig", records.recovered(4), knows=("labels", "masks"))
    aware = records.attack("aware", [*records.recovered(2), *records.missed(4)[2:]], knows=("labels", "defenses"))
    run = sweeps.run(records, "gradient-noise 1", 1, records.missed(4), attacks=[masks, aware])
    _, (point,) = estimated(sweeps.save(tmp_path, records, [("noise", 1, run)]))
    assert (point.strongest.attack, point.strongest.rate.value) == ("aware", 0.5)
    assert (point.unaware.attack, point.unaware.rate.value) == ("ig", 0.0)


def test_curves_count_every_victim_alike_and_a_failed_one_as_above_nothing(tmp_path, records, sweeps):
    victims = [records.victim(0, [records.item(0, psnr=10.0, ssim=0.1), records.item(1, psnr=30.0, ssim=0.9)])]
    victims += [records.victim(1, [records.item(psnr=20.0, ssim=0.6)]), records.failed(2)]
    _, (point,) = estimated(sweeps.save(tmp_path, records, [("none", 1, sweeps.run(records, "none", 1, victims))]))
    found = shares_above(point.setting.victims("ig"), "psnr", np.array([5.0, 15.0, 25.0, 30.0]))
    assert found == pytest.approx([2 / 3, 1 / 2, 1 / 6, 0.0])
    assert point.strongest.rate.value == pytest.approx(1 / 2)
    assert point.strongest.rate.n == 3


def test_dominance_and_frontier_are_brute_force(typical):
    (_, found), source = estimated(typical[0]), np.random.default_rng(3)
    places = []
    for _ in range(40):
        accuracy, risk = source.integers(0, 20, 2) / 20
        wide, tall = source.random(2) * 0.2
        intervals = [Interval(value=v, low=v - w, high=v + w, n=9) for v, w in ((accuracy, wide), (risk, tall))]
        places.append(Place(found[0], "ig", *intervals))
    expected = [
        any(
            other.utility.value >= own.utility.value
            and other.risk.value <= own.risk.value
            and (other.utility.low > own.utility.high or other.risk.high < own.risk.low)
            for other in places
        )
        for own in places
    ]
    assert dominate(places) == expected
    best = {
        (own.utility.value, own.risk.value)
        for own in places
        if not any(
            (o.utility.value >= own.utility.value and o.risk.value < own.risk.value)
            or (o.utility.value > own.utility.value and o.risk.value <= own.risk.value)
            for o in places
        )
    }
    steps = [(place.utility.value, place.risk.value) for place in frontier(places)]
    assert set(steps) == best
    assert steps == sorted(steps)


def test_the_wall_shows_controls_and_the_most_median_and_least_of_each_family(tmp_path, records, sweeps):
    runs = [("none", 1, sweeps.run(records, "none", 1, records.recovered(8)))]
    for scale, hits in ((1, 5), (2, 0), (3, 7), (4, 3), (5, 8)):
        victims = [*records.recovered(hits), *records.missed(8)[hits:]]
        runs.append((f"noise {scale}", 1, sweeps.run(records, f"gradient-noise {scale}", 1, victims)))
    _, found = estimated(sweeps.save(tmp_path, records, runs))
    assert [point.name for point in representatives(found)] == ["none", "noise 5", "noise 1", "noise 2"]


def test_what_a_guess_without_information_reaches_is_told_of_each_data_set_and_rule(tmp_path, records, sweeps):
    runs, stored = [], {}
    rules = {"none": {"threshold": 0.5}, "strict": {"threshold": 0.9}, "lax": {"metric": "mse", "threshold": 1.0}}
    for name, rule in rules.items():
        record, stored = records.with_arrays(sweeps.run(records, "none", 1, records.recovered(8)))
        scoring = {**record.scenario["scoring"], **rule}
        changed = {**record.scenario, "data": {"name": "digits"}, "scoring": scoring}
        runs.append((name, 1, record.model_copy(update={"scenario": changed})))
    sweep, found = estimated(sweeps.save(tmp_path, records, runs, arrays=stored))
    assert blind(sweep, found) == {
        "digits, SSIM > 0.5": pytest.approx(1 / 9),
        "digits, SSIM > 0.9": pytest.approx(1 / 9),
        "digits, MSE < 1": pytest.approx(8 / 9),
    }
    legends = (build(tmp_path).parent / "figures" / "pareto-strongest-attack.svg").read_text()
    assert legends.count("no information, digits, ") == 3


def test_a_knob_is_a_number_that_its_family_varies(tmp_path, records, sweeps):
    folder = sweeps.save(tmp_path, records, sweeps.typical(records))
    (knob,) = knobs(estimated(folder)[1])
    assert (knob.family, knob.key) == ("gradient-noise", "defenses.0.scale")
    assert [[value for value, _ in line] for line in knob.lines] == [[0.01, 1.0]]


def test_the_floor_on_epsilon_is_that_of_its_docstring(tmp_path, records, sweeps):
    runs = []
    for (name, hits), seed in itertools.product((("none", 100), ("gradient-noise 1", 10)), (1, 2)):
        inferred = (sweeps.membership("lira", hits),)
        runs.append((name, seed, sweeps.run(records, name, seed, records.recovered(4), membership=inferred)))
    _, found = estimated(sweeps.save(tmp_path, records, runs))
    tpr, fpr = beta.ppf(0.025, 200, 1801), beta.ppf(0.975, 21, 1980)
    assert [floor.floor for floor in floors(found)] == pytest.approx([np.log(tpr / fpr), 0.0])
    assert found[0].membership[1].value == 0.1
    assert average_roc(found[0].setting, "lira") == [(0.0, 0.0), (0.01, 0.1), (1.0, 1.0)]


def test_membership_has_curves_and_floors_in_the_page(tmp_path, records, sweeps, page_of):
    runs = [
        (name, 1, sweeps.run(records, name, 1, [], membership=(sweeps.membership("lira", 100),), guarantees=stated))
        for name, stated in (("none", ()), ("gradient-noise 1", (records.guarantee(),)))
    ]
    page = page_of(build(sweeps.save(tmp_path, records, runs, policy={"max_membership_tpr": 0.05})).read_text())
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "h2"]
    assert {"membership", "epsilon"} <= set(ids)
    assert "members found at 1% false alarms 10.0%" in page.text
    assert "1 in 10" in page.text


def test_the_scenario_in_the_page_is_the_one_that_ran(typical):
    raw = {"title": "a", "model": {"name": "mlp", "width": 8}, "sweep": {"grid": {"model.dropout": [0.0, 0.5]}}}
    scenario = parse({**raw, "attacks": [{"name": "dropout-inversion"}], "policy": {"max_epsilon": 3.0}}, "test")
    again = parse(tomllib.loads(toml(scenario.model_dump(mode="json"))), "again")
    assert scenario_hash(again) == scenario_hash(scenario)
    assert again.policy == scenario.policy


def test_a_single_run_is_a_sweep_of_one(tmp_path, records, sweeps):
    records.save(tmp_path, sweeps.run(records, "none", 1, records.recovered(4)))
    sweep, (point,) = estimated(tmp_path)
    assert (sweep.planned, point.name, point.strongest.rate.value) == (1, "undefended", 1.0)
