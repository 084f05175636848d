"""What attacks gave, and why some gave nothing."""


def test_attacks_that_never_applied_have_a_reason_instead_of_numbers(report, records):
    victims = [records.failed(c, "needs a bias") for c in range(3)]
    page = report(records.run([records.arm("a", [records.attack("analytic", victims)])]))
    assert "Every attack failed (analytic)" in page.text
    assert "failed: needs a bias" in page.text
    assert "attack analytic client 0, 1, 2 needs a bias" in page.text


def test_attacks_without_victims(report, records):
    page = report(records.run([records.arm("a", [records.attack("ig", [])])], status="interrupted"))
    assert "failed: no update was attacked" in page.text


def test_a_setting_that_names_a_method_is_said_by_its_name(report, records):
    terms = {
        "distance": {"name": "squared", "weight": 1.0},
        "priors": [{"name": "total-variation", "weight": 1e-4}, {"name": "mine"}],
        "levels": [2.0, 1.0],
        "unused": [],
    }
    attack = records.attack("ig", [records.failed(0, "no")]).model_copy(update={"settings": terms})
    text = report(records.run([records.arm("a", [attack])])).text
    assert (
        "distance = squared (weight 1.0), priors = total-variation (weight 0.0001) + mine, levels = [2.0, 1.0], "
        "unused = []"
    ) in text
