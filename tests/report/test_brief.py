"""The two sentences that end a run claim what the record holds, and no more."""

from types import ModuleType
from typing import Any

from fedsim.record import ItemScore
from fedsim.report.brief import summarise_run
from fedsim.report.verdict import RunJudge, sentences

MASKS = ("labels", "masks")


def test_of_two_arms_each_is_told_with_its_strongest_attack(records: ModuleType) -> None:
    free = records.arm("dropout 0.0", [records.attack("IG", records.recovered())], dropout=())
    dropped = records.arm(
        "dropout 0.5",
        [
            records.attack("IG", records.missed()),
            records.attack("DIA", records.recovered()),
            records.attack("WIIG", records.recovered(), knows=MASKS),
        ],
    )
    found, trust = summarise_run(records.run([free, dropped]))
    assert found == ("dropout 0.0: 4 of 4 images readable with IG; dropout 0.5: 4 of 4 images readable with DIA.")
    assert trust == "Alone, IG (dropout 0.5) recovered none: that would have passed for protection."


def test_a_single_arm_needs_no_name_and_success_everywhere_is_followed_by_the_accuracy(records: ModuleType) -> None:
    plain = records.arm("all", [records.attack("IG", records.recovered(clients=1))], dropout=())
    assert summarise_run(records.run([plain])) == (
        "1 of 1 image readable with IG.",
        "The trained model: accuracy 80.0%.",
    )


def test_arms_alike_are_told_once(records: ModuleType) -> None:
    arms = [records.arm(name, [records.attack("IG", records.recovered())], dropout=()) for name in "ab"]
    assert summarise_run(records.run(arms))[0] == "4 of 4 images readable with IG in each of 2 arms."


def test_of_many_arms_the_ends_are_told(records: ModuleType) -> None:
    halves = [*records.recovered(2), *records.missed(2)]
    outcomes = {"a": records.recovered(), "b": halves, "c": records.missed(), "d": records.recovered()}
    arms = [records.arm(name, [records.attack("IG", own)], dropout=()) for name, own in outcomes.items()]
    assert summarise_run(records.run(arms))[0] == (
        "Attacks succeeded in 3 of 4 arms: most in 'a' (4 of 4 images readable with IG), "
        "least in 'c' (0 of 4 images readable with IG)."
    )


def test_an_arm_without_a_result_is_no_end(records: ModuleType) -> None:
    arms = [records.arm(name, [records.attack("IG", records.recovered())], dropout=()) for name in ("a", "b", "c")]
    arms += [records.arm("d", [records.attack("IG", records.missed())], dropout=()), records.arm("e", [], dropout=())]
    found, _ = summarise_run(records.run(arms))
    assert "in 3 of 5 arms" in found
    assert "least in 'd'" in found


def test_a_warning_comes_before_anything_else(records: ModuleType) -> None:
    found, trust = summarise_run(records.run([records.arm("all", [records.attack("IG", records.missed())])]))
    assert found == "0 of 4 images readable with IG."
    assert trust.startswith("No control was run: no attack was granted the masks")
    assert trust.count(". ") == 0


def test_failure_beside_a_control_that_worked_is_no_guarantee(records: ModuleType) -> None:
    attacks = [records.attack("IG", records.missed()), records.attack("WIIG", records.recovered(), knows=MASKS)]
    trust = summarise_run(records.run([records.arm("all", attacks)]))[1]
    assert trust == "That these attacks recovered nothing is no guarantee."


def test_a_run_without_attacks_says_so(records: ModuleType) -> None:
    assert summarise_run(records.run([records.arm("all", [])])) == (
        "No attack was tried.",
        "The trained model: accuracy 80.0%.",
    )
    none = records.arm("all", [records.attack("IG", [records.failed(0)])])
    assert summarise_run(records.run([none]))[0] == "Every attack failed."


def test_attacks_that_recover_as_many_are_all_named(records: ModuleType) -> None:
    arms = [
        records.arm(
            "a",
            [records.attack("closed form", records.recovered(2)), records.attack("DIA", records.recovered(2))],
        )
    ]
    run = records.run(arms)
    assert summarise_run(run)[0] == "2 of 2 images readable with closed form and DIA."
    (told,) = sentences(run, RunJudge.of(run))
    assert told.after.endswith("with attack closed form. As many with DIA.")


def test_no_more_successes_than_blind_guesses_have_are_no_success(records: ModuleType) -> None:
    def guesses(hits: int) -> list[Any]:
        values = [{"identified": float(place < hits), "psnr": 9.0, "ssim": 0.1} for place in range(20)]
        scores = [ItemScore(index=0, values=own, label=1, guessed_label=1) for own in values]
        return [records.victim(client, [own]) for client, own in enumerate(scores)]

    scenario = records.scenario(scoring={"metric": "identified", "threshold": 0.5})
    control = records.attack("WIIG", guesses(20), knows=MASKS)
    arms = {
        hits: records.arm("all", [records.attack("IG", guesses(hits)), records.attack("A", guesses(0)), control])
        for hits in (1, 3)
    }
    lucky = records.run([arms[1]], plan=scenario)
    assert summarise_run(lucky)[0] == "1 of 20 images identified with IG, which blind guesses explain."
    (told,) = sentences(lucky, RunJudge.of(lucky))
    assert told.level == ""
    assert "which blind guesses explain" in told.after
    found, trust = summarise_run(records.run([arms[3]], plan=scenario))
    assert found == "3 of 20 images identified with IG."
    assert trust == "Alone, A recovered none: that would have passed for protection."
    assert "Alone" not in summarise_run(lucky)[1]
