"""Values out of range name the bound."""

from typing import Any

import pytest

from fedsim.core.errors import ScenarioError
from fedsim.scenario import parse


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"federation": {"clients": 0}}, r"federation.clients: .*greater than or equal to 1, got 0"),
        (
            {"federation": {"clients": 2}, "participation": {"cohort": 3}},
            r"cohort is 3, expected at most federation.clients = 2",
        ),
        (
            {"federation": {"clients": 4}, "participation": {"always_crash": [1, 4]}},
            r"participation.always_crash: unknown client 4, expected numbers from 0 to 3",
        ),
        ({"federation": {"local_steps": 2}}, r"fedsgd sends a single gradient"),
        ({"federation": {"fraction": 2}}, r"federation.fraction: there is no such key"),
        ({"federation": {"optimizer": {"name": "dropout"}}}, r"expected an optimizer"),
        ({"components": [{"name": "adam"}]}, r"set federation.optimizer instead"),
        (
            {"components": [{"name": "greedy"}]},
            r"'greedy' is a decoder, which runs on a trained model, not during training",
        ),
        (
            {"components": [{"name": "pyramid-drop", "layers": [2], "shares": [float("nan")]}]},
            r"components.0.shares.0: input should be a finite number, got nan",
        ),
        ({"partition": {"scheme": "dirichlet", "alpha": float("inf")}}, r"alpha: .* a finite number, got inf"),
        ({"partition": {"scheme": "dirichlet", "alpha": 0}}, r"partition.alpha: .*greater than 0, got 0"),
        ({"threat": {"rounds": [4]}}, r"round 4 is after the last"),
        ({"threat": {"victims": 11}}, r"threat.victims is 11, expected at most 10"),
        ({"attacks": [{"name": "inverting-gradients"}] * 2}, r"two are reported as 'inverting-gradients'"),
        ({"data": "mnist"}, r"data: "),
        ({"data": {}}, r"data.name: this key is missing. Expected: a name that `fedsim list` prints"),
        (
            {"attributes": {"attacks": [{"name": "change-norms"}]}},
            r"attribute: this key is missing. Expected: attribute to infer",
        ),
        ({"arms": {"model.dropuot": [0.1]}}, r"model.dropuot: there is no such key. Did you mean 'dropout'"),
    ],
)
def test_values_out_of_range_name_the_bound(table: dict[str, Any], expected: str) -> None:
    raw = {"title": "t", "data": {"name": "digits"}, "model": {"name": "mlp"}, **table}
    with pytest.raises(ScenarioError, match=expected):
        parse(raw, "s.toml")


def test_an_item_that_does_not_fit_is_told_once() -> None:
    raw = {"title": "t", "model": {"name": "mlp"}, "attributes": {"attacks": [{"name": "change-norms"}]}}
    with pytest.raises(ScenarioError) as told:
        parse(raw, "s.toml")
    assert str(told.value).count("\n") == 0


def test_the_data_default_to_real_digits_that_a_package_ships() -> None:
    assert parse({"title": "t", "model": {"name": "mlp"}}, "s").data.name == "mnist5k"


ASKED: dict[str, Any] = {
    "title": "t",
    "data": {"name": "digits"},
    "model": {"name": "mlp"},
    "membership": {"candidates": 4, "attacks": [{"name": "lira"}]},
    "exposure": {},
}


def test_tables_of_questions_stand_among_the_others_and_are_gathered() -> None:
    own = parse(ASKED, "s")
    assert {name: choice.name for name, choice in own.questions.items()} == {
        "exposure": "exposure", "membership": "membership"
    }  # fmt: skip
    written = own.model_dump(mode="json")
    assert "questions" not in written
    assert written["exposure"] == {"seconds": None, "candidates": 1000, "search": 0, "emission": 0}
    (attack,) = written["membership"]["attacks"]
    assert (attack["name"], attack["shadows"]) == ("lira", 16), "defaults of attacks in it are filled in too"
    assert parse(written, "again") == own
    assert parse(ASKED | {"exposure": None}, "s").questions.keys() == {"membership"}


def test_a_table_that_is_nearly_called_as_a_question_is_named() -> None:
    with pytest.raises(ScenarioError, match="exposur: there is no such key. Did you mean 'exposure'"):
        parse({**ASKED, "exposur": {}}, "s.toml")
