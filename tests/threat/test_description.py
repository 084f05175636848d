"""What is said of the threat model on the screen, in the record and in the report."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from fedsim.core.types import Knowledge, Observation, Truth
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World
from fedsim.threat.observe import describe, describe_any_round
from tests.experiment.running import Build

Watched = Callable[..., tuple[Observation, Truth, World]]
ALL = get_args(Knowledge)
HONEST = "The server is honest but curious: it follows the protocol and stores all received updates."
KNOWS = "It knows the model, its weights and the loss"


@pytest.mark.parametrize(
    ("tables", "sentences"),
    [
        (
            {
                "threat": {
                    "knows": ["labels"],
                    "rounds": [1, 2],
                    "victims": 2,
                    "rate_error": 0.1,
                    "visible_parameters": ["1.*"],
                },
                "federation": {"rounds": 2, "batch_size": 3},
            },
            [
                HONEST,
                "It sees single updates: one gradient of each client, on batches of 3.",
                "Of each update it sees only the parameters that match 1.*.",
                "It attacks 2 clients in round 1, 2.",
                f"{KNOWS}, the labels of the batch.",
                "It does not see the dropout masks.",
                "It does not know the batch size.",
                "It does not know the dropout rates.",
                "It does not know how inputs are normalised.",
                "It does not know which defenses are in use.",
                "It attacks every round separately.",
            ],
        ),
        (
            {
                "threat": {"knows": ["dropout-rates"], "rate_error": -0.1, "view": "sum"},
                "federation": {"algorithm": "fedavg", "local_epochs": 2, "clients": 8},
                "participation": {"cohort": 4},
            },
            [
                HONEST,
                (
                    "It sees a single sum per round, the mean over about 4 clients of the change after 2 passes "
                    "over its examples of each client on batches of 1, and the list of participants."
                ),
                "The scenario assumes that it sees no single update, without a mechanism that hides them.",
                "Its dropout rates are wrong by -0.1.",
                "It attacks the sum in round 1.",
                f"{KNOWS}, where and at which rate the model drops out.",
                "It knows the clients' optimizer, sgd with step size 0.1.",
                "It must infer the labels.",
                "It does not see the dropout masks.",
                "It does not know the batch size.",
                "It does not know how inputs are normalised.",
                "It does not know which defenses are in use.",
            ],
        ),
        (
            {
                "threat": {"knows": [k for k in ALL if k not in ("components", "client-randomness")]},
                "components": [{"name": "cutmix"}],
                "federation": {"batch_size": 2},
            },
            [
                HONEST,
                "It sees single updates: one gradient of each client, on batches of 2.",
                "It attacks 1 client in round 1.",
                f"{KNOWS}, the labels of the batch, the dropout masks the client drew, the "
                "batch size, where and at which rate the model drops out, how inputs are "
                "normalised, the description of every defense in use, a client's updates in "
                "the earlier attacked rounds.",
                "It does not know which components are in use.",
                "It does not see the random draws of components and task.",
            ],
        ),
    ],
)
def test_the_description_is_whole(scenario: Build, tables: dict[str, dict], sentences: list[str]) -> None:
    assert describe(worlds.build(scenario(**tables))) == tuple(sentences)


def test_who_attacks_several_batch_sizes_attacks_in_no_round(scenario: Build) -> None:
    world = worlds.build(scenario(threat={"knows": ("labels",)}))
    one, several = describe(world), describe_any_round(world, (1, 4, 16))
    assert [sentence for sentence in several if "on batches of 1, 4, 16." in sentence]
    assert len(set(one) - set(several)) == 2, "what it sees, and in which round it attacks"
    assert not any("in round" in sentence for sentence in several)


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("ideal", "Secure aggregation is ideal: a trusted party adds the updates and sends the server only the sum."),
        ("masked", "Secure aggregation is masked: each upload looks random, and the masks cancel in the sum."),
    ],
)
def test_the_description_says_what_hides_single_updates(scenario: Build, mode: str, sentence: str) -> None:
    told = describe(worlds.build(scenario(threat={"view": "sum"}, secure_aggregation={"mode": mode})))
    assert [one for one in told if "ecure aggregation" in one or "without a mechanism that hides them" in one] == [
        sentence
    ]


def test_the_threat_model_is_told_in_sentences(watched: Watched) -> None:
    attacks = [{"name": "wiig", "label": "W", "also_knows": ["masks", "dropout-rates", "labels"]}]
    _, _, world = watched(threat={"knows": ("labels",)}, attacks=attacks)
    text = " ".join(describe(world))
    assert "Attack 'W' is granted more: the dropout masks the client drew, where and at which rate" in text
    assert "the labels of the batch" in text
    assert "does not see the dropout masks" in text
    assert "does not know the dropout rates" in text


@pytest.mark.parametrize(
    ("attack", "deed"),
    [
        (
            {"name": "robbing-the-fed"},
            "For attack 'robbing-the-fed' it adds '0.1.bias', '0.1.weight', '0.3.weight' (66,048 numbers) to it, anew "
            "in every attacked round.",
        ),
        (
            {"name": "trap-weights", "label": "T"},
            "For attack 'T' it replaces the values of '1.bias', '1.weight', anew in every attacked round.",
        ),
    ],
)
def test_the_description_says_what_a_malicious_server_does(scenario: Build, attack: dict[str, str], deed: str) -> None:
    built = scenario(
        model={"name": "mlp", "width": 24, "depth": 2, "bias": True, "activation": "relu"},
        federation={"batch_size": 2},
        threat={"server": "malicious"},
        attacks=[attack],
    )
    assert describe(worlds.build(built))[:3] == (
        "The server is malicious: it changes the model that every client receives. Clients train it as usual.",
        deed,
        "It chooses these values without any client's data, from its seed and the test set, which it owns.",
    )


def test_the_description_says_how_long_a_client_trained(scenario: Build) -> None:
    for settings, words in (
        ({"local_steps": 3}, "the change after 3 steps of each client"),
        ({"local_epochs": 1}, "the change after 1 pass over its examples of each client"),
    ):
        world = worlds.build(scenario(federation={"algorithm": "fedavg", **settings}))
        assert any(words in sentence for sentence in describe(world))


@pytest.mark.parametrize("knows", [[], ["labels", "input-statistics", "masks"]])
def test_of_a_language_model_nothing_is_said_of_labels_and_normalisation(
    scenario: Build, tmp_path: Path, knows: list[str]
) -> None:
    """Its labels are its text, and tokens are not normalised."""
    (tmp_path / "text.txt").write_text("\n\n".join(f"Number {d} ends here." for d in range(10)))
    world = worlds.build(
        scenario(
            data={"name": "text-file", "path": str(tmp_path / "text.txt"), "length": 12},
            model={"name": "tiny-llama", "width": 16, "hidden": 16},
            federation={"clients": 2},
            threat={"knows": knows},
            attacks=[],
        )
    )
    text = " ".join(describe(world))
    assert "dropout masks" in text
    assert "labels" not in text
    assert "normalised" not in text
