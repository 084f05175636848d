"""A scenario with a generation: what stands in record, table, CSV and page, and what is refused before training."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.components.decoder.speculative import Speculative
from fedsim.components.decoder.svdecode import SvdecodeConfig, calibrate
from fedsim.core.errors import FedsimError, GenerationError, ScenarioError
from fedsim.core.types import Batch
from fedsim.experiment import runner
from fedsim.federation.journal import ServerLog
from fedsim.questions.generation import texts as written_texts
from fedsim.questions.generation.settings import DecoderChoice
from fedsim.report import writing
from fedsim.scenario import world as worlds
from tests.experiment.running import Build, run
from tests.threat.sentences import write_sentences


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Any]:
    """Few sentences, four numbers, and a model that learns them by heart."""
    path = write_sentences(tmp_path / "text.txt", 30)
    return {
        "data": {"name": "text-file", "path": str(path), "words": 40, "canaries": 4, "repetitions": [0, 4]},
        "model": {"name": "tiny-llama", "width": 16, "blocks": 2, "hidden": 16},
        "federation": {
            "algorithm": "fedavg",
            "clients": 1,
            "batch_size": 8,
            "local_epochs": 12,
            "optimizer": {"name": "adam", "learning_rate": 0.01},
        },
        "threat": {"victims": 1, "keep_updates": False},
        "generation": {
            "decoder": {"name": "speculative", "temperature": 0.5, "layers": 1},
            "max_new_tokens": 6,
            "texts_per_prompt": 3,
            "candidates": 4,
            "decoys_per_secret": 3,
            "prompts": {"count": 3, "length": 3},
            "attacks": [
                {"name": "trace-forest", "trees": 5},
                {"name": "trace-mean", "label": "pace"},
                {"name": "trace-mean", "question": "planted", "view": "work", "count": "accepted"},
                {"name": "trace-figures", "mitigation": "trace-padding"},
            ],
        },
    }


def trained(scenario: Build, tables: dict[str, Any]) -> tuple[worlds.World, ServerLog]:
    """The world, and its journal after one pass over the text."""
    built = scenario(**changed(tables, {"federation.local_epochs": 1}))
    return worlds.build(built), runner.train(worlds.build(built), lambda _: None)


def lines(world: worlds.World, batch: Batch) -> list[str]:
    """The sentences of a batch, each once, in order."""
    tokenizer = world.data.dataset.tokenizer
    drop = {tokenizer.padding, tokenizer.end}
    return list(
        dict.fromkeys(tokenizer.decode([own for own in row if own not in drop]) for row in batch.inputs.tolist())
    )


def test_a_run_holds_traces_findings_and_their_metrics(scenario: Build, tables: dict[str, Any], tmp_path: Path) -> None:
    record = run(scenario(**tables), tmp_path / "run")
    (arm,) = record.arms
    (context, *found), traces = arm.findings, arm.items["generation/traces"]
    assert arm.complete
    assert [finding.failure for finding in arm.findings if finding.failure] == []
    assert context.scope["texts"] == 3 * 3 + 2 * 4 + 4 * 4 == len(traces["tokens"])
    assert list(zip(traces["question"], traces["about"], strict=True)) == [
        *[("prompt", number) for number in range(3) for _ in range(3)],
        *[("member", label) for label in (1, 0) for _ in range(4)],
        *[("planted", number) for number in range(2) for _ in range(4)],  # those in the text, then the control
        *[("planted", number) for number in range(2) for _ in range(4)],
    ]
    assert set(traces["ending"]) == {"length"}
    assert context.scope["ended length"] == context.scope["texts"]
    assert (context.role, context.metric) == ("context", "tokens_per_step")
    steps = [[int(tokens) for tokens in series.split()] for series in traces["tokens"]]
    paces = [sum(step) / len(step) for step in steps]
    assert 1.0 < context.value.value == pytest.approx(sum(paces) / len(paces))
    assert all(sum(step) == 6 for step in steps)
    assert [finding.label for finding in found if finding.role == "attack" and finding.method] == [
        "trace-forest, counts (prompt)",
        "pace (member)",
        "trace-mean, work (planted)",
        "trace-figures, counts, trace-padding (bits)",
    ]
    (padded,) = [finding for finding in found if "mitigation" in finding.scope]
    assert (padded.value.value, padded.p_value) == (0.0, 1.0)
    assert padded.extra_metrics.keys() == {"step_ratio", "token_ratio"}
    assert {finding.metric for finding in arm.findings} <= {metric.name for metric in record.metrics}
    assert "What generation gives away" in writing.build(tmp_path / "run").read_text(encoding="utf-8")
    (again,) = run(scenario(**tables), tmp_path / "again").arms
    assert [own.model_copy(update={"seconds": 0.0}) for own in again.findings] == [
        own.model_copy(update={"seconds": 0.0}) for own in arm.findings
    ]
    assert again.items == arm.items


def test_members_were_trained_on_strangers_were_not_and_no_secret_is_either(
    scenario: Build, tables: dict[str, Any]
) -> None:
    world, journal = trained(scenario, changed(tables, {"data.test_fraction": 0.5, "generation.candidates": 12}))
    material, dataset = written_texts.material_of(world, journal), world.data.dataset
    sentences = {name: lines(world, batch) for name, batch in (("train", dataset.train), ("test", dataset.test))}
    planted = {own.text for own in dataset.planted_secrets}
    assert planted & set(sentences["train"]), "no secret stands in the text: it proves nothing"
    members, strangers = (
        [dataset.tokenizer.decode(own) for own in some] for some in (material.members, material.non_members)
    )
    assert len(set(members)) == len(set(strangers)) == 12
    assert set(members) <= set(sentences["train"]) - planted
    assert set(strangers) <= set(sentences["test"])
    own = [line for line in sentences["train"] if line not in planted]
    assert len(own) == len(sentences["test"])  # so that the same draw would choose the same places
    assert [own.index(line) for line in members] != [sentences["test"].index(line) for line in strangers]


@pytest.mark.parametrize(("source", "share"), [("clients", "train"), ("test", "test")])
def test_prompts_begin_sentences_of_the_clients_or_of_the_test_set_and_no_secret(
    scenario: Build, tables: dict[str, Any], source: str, share: str
) -> None:
    tables["generation"]["prompts"] = {"source": source, "count": 99, "length": 40}
    world = worlds.build(scenario(**tables))
    dataset = world.data.dataset
    sentences = set(lines(world, getattr(dataset, share))) - {own.text for own in dataset.planted_secrets}
    assert {dataset.tokenizer.decode(prompt) for prompt in written_texts._prompts(world).tokens} == sentences
    tables["generation"]["prompts"] = {"source": "texts", "texts": ["rain fell", "the", "the"]}
    assert len(written_texts._prompts(worlds.build(scenario(**tables))).tokens) == 2


def test_a_secret_is_whole_and_half_and_the_control_says_that_it_was_left_out(
    scenario: Build, tables: dict[str, Any]
) -> None:
    world, journal = trained(scenario, tables)
    tokenizer, planted = world.data.dataset.tokenizer, world.data.dataset.planted_secrets
    secrets = written_texts.material_of(world, journal).secrets
    assert [secret.text for secret in secrets] == [own.text for own in planted]
    assert [secret.is_planted for secret in secrets] == [bool(own.examples) for own in planted]
    assert {secret.is_planted for secret in secrets} == {True, False}
    for secret in secrets:
        texts = [tokenizer.decode(whole) for whole in secret.wholes]
        assert (texts[0], len(set(texts))) == (secret.text, 4)
        assert tokenizer.decode(secret.known_prefix) == "The secret number is"
        for whole, half in zip(secret.wholes, secret.halves, strict=True):
            filling = len(whole) - len(secret.known_prefix)
            assert filling == 11  # a blank, nine digits, and the end: an odd number, of which the larger half is asked
            assert half == whole[: len(secret.known_prefix) + 6]


def test_the_model_of_the_only_client_is_the_one_that_the_server_has_after_the_round(
    scenario: Build, tables: dict[str, Any]
) -> None:
    world, journal = trained(scenario, tables)
    assert written_texts.trained_weights(world, journal) is journal.weights
    world, journal = trained(scenario, changed(tables, {"generation.model": "client"}))
    weights = written_texts.trained_weights(world, journal)
    assert weights is not journal.weights
    assert weights.keys() == journal.weights.keys()
    for name, weight in journal.weights.items():
        torch.testing.assert_close(weights[name], weight)
    moved = [name for name, own in journal.weights.items() if not torch.equal(own, world.models.first_weights[name])]
    assert moved


MASKED: dict[str, Any] = {
    "task": "masked-diffusion",
    "data.length": 12,
    "data.canaries": 0,
    "model.name": "tiny-llada",
    "generation.attacks": [{"name": "trace-forest"}],
}


def changed(tables: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The tables with other values, whose keys may name a table."""
    for key, value in changes.items():
        table, _, name = key.partition(".")
        tables[table] = {**tables[table], name: value} if name else value
    return tables


def unmasker(name: str, **settings: Any) -> dict[str, Any]:
    return {**MASKED, "generation.decoder": {"name": name, **settings}}


def test_an_unmasker_of_blocks_that_divide_the_answer_may_write(scenario: Build, tables: dict[str, Any]) -> None:
    written_texts.check(worlds.build(scenario(**changed(tables, unmasker("fixed", block=3, steps=4)))))


def test_a_draft_is_tried_before_training(
    scenario: Build, tables: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise GenerationError("the draft cannot read it.", [0])

    monkeypatch.setattr(Speculative, "_scores", fail)
    with pytest.raises(ScenarioError, match="'speculative' writes nothing here: the draft cannot read it"):
        written_texts.check(worlds.build(scenario(**tables)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**unmasker("fixed"), "generation.max_new_tokens": 10}, "'fixed' writes nothing here: the prompt has 3"),
        (unmasker("fixed", block=4), "block is 4, and an answer has 6 positions: expected a divisor"),
        (unmasker("fixed", block=3, steps=5), "steps is 5, and the answer has 2 blocks: expected a multiple"),
        (unmasker("cfg-constrained", grammar='S = "a" S'), "no text can be completed from 'S'"),
        ({**MASKED, "generation.decoder": "greedy"}, "decoder 'greedy' writes from left to right, and the model"),
        ({"generation.decoder": "threshold"}, "the model TinyLlama has no mask token"),
        ({"data": {"name": "digits"}, "model": {"name": "mlp"}}, "a decoder generates text, and the clients' model"),
        ({"data.canaries": 0}, "question 'planted' is about secrets, and none is planted"),
        ({"generation.candidates": 400}, "generation.candidates is 400, but the data have .* Set it to at most"),
        ({"generation.model": "client", "federation.algorithm": "fedsgd"}, "clients send gradients and train no model"),
        ({"generation.prompts": {"source": "texts", "texts": ["rain"]}}, "1 different prompts of up to 8 tokens"),
        ({"generation.prompts": {"source": "file", "path": "/nowhere.txt"}}, "prompts.path: cannot read /nowhere.txt"),
        ({"generation.decoder": {"name": "speculative", "draft": "nobody"}}, "there is no model 'nobody'"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    scenario: Build, tables: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    tables = changed(tables, changes)
    if "local_epochs" in tables["federation"] and tables["federation"]["algorithm"] == "fedsgd":
        del tables["federation"]["local_epochs"]
        tables["federation"].pop("optimizer", None)
    with pytest.raises((ScenarioError, FedsimError), match=message):
        written_texts.check(worlds.build(scenario(**tables)))


IMAGES: dict[str, Any] = {
    "data": {"name": "digit-grids", "source": "digits", "train": 8, "test": 8},
    "model": {"name": "tiny-vlm", "width": 16, "blocks": 1, "hidden": 16},
    "federation": {"clients": 2, "batch_size": 1},
    "threat": {"victims": 1, "keep_updates": False},
    "generation": {
        "decoder": {"name": "damro", "temperature": 1.0},
        "max_new_tokens": 3,
        "stop_at_end_token": True,
        "texts_per_prompt": 3,
        "prompts": {"count": 4},
        "attacks": [{"name": "trace-mean", "question": "prompt"}],
    },
}


def test_texts_about_images_are_those_of_their_image_and_question(scenario: Build) -> None:
    world = worlds.build(scenario(**IMAGES))
    written_texts.check(world)
    speaker = written_texts.speaker_of(world, world.models.first_weights)
    material = written_texts.material_of(world, runner.train(worlds.build(scenario(**IMAGES)), lambda _round: None))
    train = world.data.dataset.train
    pairs = [
        (tuple(q), image.tolist())
        for q, image in zip(train.extra_inputs["question"].tolist(), train.inputs, strict=True)
    ]
    prompted = zip(material.prompts, material.extra_inputs["image"].tolist(), strict=True)
    assert all(pair in pairs for pair in prompted)
    plain = scenario(**{**IMAGES, "generation": {**IMAGES["generation"], "decoder": "damro"}})
    greedy = written_texts.speaker_of(worlds.build(plain), world.models.first_weights)
    together = greedy.write(material.prompts, "prompt", material.extra_inputs)
    for number, text in enumerate(together):
        given = {"image": material.extra_inputs["image"][[number]]}
        (alone,) = greedy.write([material.prompts[number]], "alone", given)
        assert alone.tokens == text.tokens
    assert len(speaker.speech("prompt", material).texts) == 12
    done = written_texts.speak(world, runner.train(worlds.build(scenario(**IMAGES)), lambda _round: None))
    (right,) = [own for own in done.findings if own.metric == "written_accuracy"]
    assert (right.value.n, right.role) == (4, "context")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": "greedy"}, "generation.decoder: 'greedy' reads no images"),
        ({"attacks": [{"name": "trace-mean", "question": "member"}]}, "question 'member' is about sentences"),
        ({"prompts": {"source": "texts", "texts": ["a", "b"]}}, "generation.prompts.source is 'texts'"),
    ],
)
def test_what_cannot_be_asked_about_images_is_refused(scenario: Build, changes: dict[str, Any], message: str) -> None:
    world = worlds.build(scenario(**{**IMAGES, "generation": {**IMAGES["generation"], **changes}}))
    with pytest.raises(ScenarioError, match=message):
        written_texts.check(world)


@pytest.fixture
def calibrated(tables: dict[str, Any]) -> dict[str, Any]:
    """A decoder that is fitted to texts."""
    tables["components"] = [{"name": "lora", "targets": ["*.q_proj"], "rank": 2}]
    tables["generation"] = {
        "decoder": {"name": "svdecode", "strength": "calibrate"},
        "max_new_tokens": 4,
        "texts_per_prompt": 3,
    }
    return tables


def test_a_decoder_is_fitted_to_texts_of_clients_that_no_round_trained_on(
    scenario: Build, calibrated: dict[str, Any]
) -> None:
    calibrated["federation"] |= {"local_steps": 1, "clients": 2}
    del calibrated["federation"]["local_epochs"]
    world = worlds.build(scenario(**calibrated))
    written_texts.check(world)
    journal = runner.train(worlds.build(scenario(**calibrated)), lambda _round: None)
    trained = [
        number
        for record in journal.rounds
        for client in record.participants
        for chosen in world.data.numbers_of(record.round, client)
        for number in chosen.tolist()
    ]
    owned = torch.cat(list(world.data.shares)).tolist()
    left = world.data.dataset.train.inputs[[number for number in owned if number not in trained]]
    texts = written_texts._held_out(world, journal.rounds)
    assert sorted(texts.inputs.tolist()) == sorted(left.tolist())
    speaker = written_texts.speaker_of(world, journal.weights, rounds=journal.rounds)
    config = speaker.decoder.config
    assert config.strength == calibrate(speaker.model, texts, config, "mean")


def test_where_every_text_was_trained_on_the_test_set_calibrates_and_the_strength_is_recorded(
    scenario: Build, calibrated: dict[str, Any]
) -> None:
    calibrated["federation"] |= {"local_epochs": 1, "clients": 2}
    journal = runner.train(worlds.build(scenario(**calibrated)), lambda _round: None)
    with pytest.raises(FedsimError, match='Set generation.calibration = "test", or strength to a number'):
        written_texts.speak(worlds.build(scenario(**calibrated)), journal)
    calibrated["generation"]["calibration"] = "test"
    world = worlds.build(scenario(**calibrated))
    texts, test = written_texts._held_out(world, journal.rounds), world.data.dataset.test
    assert 0 < len(texts) <= 64
    assert all(row in test.inputs.tolist() for row in texts.inputs.tolist())
    done = written_texts.speak(world, journal)
    model = written_texts.speaker_of(world, journal.weights, rounds=journal.rounds).model
    strength = calibrate(model, texts, SvdecodeConfig(strength=0), "mean")
    assert done.fitted_settings == {"strength": strength}


def test_a_decoder_that_fits_nothing_has_no_fitted_settings() -> None:
    choice = DecoderChoice.model_validate({"name": "svdecode", "strength": 2.0})
    assert written_texts.fitted_settings(choice, choice.make("component")) == {}
