"""What a report says was recovered, and what it refuses to say."""

import pytest

from tests.report.reading import banners


def test_says_what_was_recovered_by_whom_and_how_sure_that_is(typical):
    _, _, page = typical
    assert (
        "Under an honest-but-curious server that knows the labels and the batch size, 3 of 3 images are readable "
        "(SSIM > 0.5, 95% interval 44 to 100%, failed on 1 of 4 updates) with attack dia. ig alone recovered none: "
        "its failure would have passed for protection. Granted the masks, attack wiig recovers 4 of 4."
    ) in page.text
    assert "safe" not in page.text.lower()
    assert banners(page) == []


def test_a_sum_is_named_and_is_no_control(report, records):
    """That an attack on a mixture fails does not make it a weak attack."""
    victims = [records.victim(0, [records.item(0, psnr=9.0, ssim=0.1)], clients=(0, 2, 5)), records.failed(0)]
    arm = records.arm("sum", [records.attack("IG", victims)], dropout=())
    page = report(records.run([arm], plan=records.scenario(threat={"view": "sum"})))
    assert "round 1, sum of 3 clients" in page.text
    assert "No control was run" in page.text


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


def test_a_replay_that_differs_is_not_hidden(report, records):
    arm = records.typical().arms[0].model_copy(update={"replay_matches": False})
    page = report(records.run([arm]))
    assert "wrong truth" in page.text
    assert "The ground truth of this score is uncertain: the replay of the clients' round did not match." in page.text
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


@pytest.mark.parametrize(
    "metric", [("mse", 0.01, "MSE < 0.01"), pytest.param(("psnr", 20.0, "PSNR > 20 dB"), marks=pytest.mark.slow)]
)
def test_the_scenarios_rule_of_success_is_named(report, records, metric):
    name, threshold, words = metric
    scoring = {"metric": name, "threshold": threshold, "resamples": 200}
    page = report(records.run(records.typical().arms, plan=records.scenario(scoring=scoring)))
    assert words in page.text
