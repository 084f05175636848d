"""Text generation with an arm's trained model, and findings on its traces."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.hooks import IMAGES, Component, Decoder
from fedsim.core.types import Batch, Generated, Limits, Planted, Tensors, Tokenizer
from fedsim.data._text import read_text
from fedsim.federation.journal import ServerLog
from fedsim.metrics.exposure import alternatives, common_beginning, space_of
from fedsim.questions.generation.answers import judge_answers
from fedsim.questions.generation.hooks import TraceAttack
from fedsim.questions.generation.settings import DecoderChoice, GenerationSettings, TraceAttackChoice
from fedsim.questions.generation.side_channels import Answer, GeneratedTexts, ScoringOptions, TraceInquiry, answer_here
from fedsim.questions.generation.study import SecretWithDecoys, StudyInputs, TextGenerator, Tokens, study
from fedsim.questions.generation.types import TraceQuestion
from fedsim.record import Finding, RoundRecord
from fedsim.scenario.world import World
from fedsim.tasks.core.fitting import QUESTION
from fedsim.threat.uses import count_training

_FITTED = 64  # maximum number of texts to which a decoder is fitted


def check(world: World) -> None:
    """Check before the first round that the decoder runs on this model, and that each question is applicable.

    Raises:
        ScenarioError: a check failed; the message gives the reason.
        FedsimError: the decoder does not run on this model.
    """
    settings, dataset = generation_of(world), world.data.dataset
    if dataset.tokenizer is None or not (world.task.labels_are_inputs or _asks_about_images(world)):
        raise ScenarioError(
            "generation: a decoder generates text, and the clients' model is no language "
            "model. Choose a text set and a model such as 'tiny-llama', or remove [generation]."
        )
    questions = {_question(attack) for attack in settings.attacks}
    if _asks_about_images(world):
        _check_images(settings, questions)
    if "planted" in questions and not any(secret.examples for secret in dataset.planted_secrets):
        raise ScenarioError(
            "generation.attacks: question 'planted' is about secrets, and none is planted in the training text. Set "
            "data.canaries, data.identities or data.addresses, and data.repetitions above 0."
        )
    cut = [secret for secret in dataset.planted_secrets if len(secret.text) != len(secret.prompt) + len(secret.form)]
    if "planted" in questions and cut:
        raise ScenarioError(
            f"generation.attacks: data.length is {dataset.spec.shape[0]}, which cuts a secret after '{cut[0].text}'. "
            "Raise data.length until it holds whole secrets."
        )
    limit = min(len(dataset.test), len(dataset.train))
    if "member" in questions and settings.candidates > limit:
        raise ScenarioError(
            f"generation.candidates is {settings.candidates}, but the data have "
            f"{len(dataset.train)} training and {len(dataset.test)} test sentences. Set it to "
            f"at most {limit}, or choose more data."
        )
    check_trained(world)
    prompts = _prompts(world)
    longest = max(range(len(prompts.tokens)), key=lambda number: len(prompts.tokens[number]))
    given = {name: rows[[longest]] for name, rows in prompts.extra_inputs.items()}
    begun = _speaker_to_try(world).begin(prompts.tokens[longest], "check", given).result
    if begun is not None and begun.ending == "failed":
        raise ScenarioError(f"generation: decoder '{settings.decoder.name}' writes nothing here: {begun.reason}")


@dataclass(frozen=True)
class GenerationStudy:
    """Generated texts or samples of a trained model, and findings on them.

    Attributes:
        texts: all texts, each once.
        traces: table of the traces: question, ground truth, ending, tokens and counts per step.
        findings: findings on the texts and their traces.
        fitted_settings: settings of the decoder that were fitted to held-out texts.
    """

    texts: Sequence[Generated]
    findings: Sequence[Finding]
    traces: Mapping[str, Sequence[Any]] = field(default_factory=dict[str, Sequence[Any]])
    fitted_settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


def speak(world: World, journal: ServerLog, answer: Answer = answer_here, salt: bytes = b"") -> GenerationStudy:
    """Generate texts with the trained model, and run every attack on the traces.

    Args:
        world: a scenario with a generation, accepted by `check`.
        journal: journal of the whole training.
        answer: runs an attack on a case, in this process or in a subprocess.
        salt: the run's salt; empty without a salt.

    Raises:
        FedsimError: the generation failed.
    """
    scenario = world.scenario
    speaker = speaker_of(world, trained_weights(world, journal), rounds=journal.rounds)
    material = material_of(world, journal)
    train = world.data.dataset.train
    judging = ScoringOptions(scenario.seed, scenario.scoring.confidence, answer, (train.inputs, train.labels), salt)
    done = study(speaker, material, inquiries_of(world), judging)
    speeches = _distinct(done.speeches or (speaker.speech("prompt", material),))
    texts = [text for speech in speeches for text in speech.texts]
    findings = (*_answer_findings(world, speaker, speeches), *done.findings)
    fitted = fitted_settings(generation_of(world).decoder, speaker.decoder)
    return GenerationStudy(texts, findings, _traces(speeches), fitted)


def _answer_findings(world: World, speaker: TextGenerator, speeches: Sequence[GeneratedTexts]) -> Iterator[Finding]:
    """Yield findings on the answers to questions about images."""
    answers = _prompts(world).answers
    if answers is not None:
        (speech,) = speeches  # prompt and bits share their texts, and no other question is about images
        confidence = world.scenario.scoring.confidence
        yield from judge_answers(speech.texts, speech.truth, answers, speaker.tokenizer, confidence)


def generation_of(world: World) -> GenerationSettings:
    """Return the scenario's settings of table [generation]; the table must exist."""
    return next(question.config for question in world.questions if isinstance(question.config, GenerationSettings))


def _question(choice: TraceAttackChoice) -> TraceQuestion:
    if choice.question is not None:
        return choice.question
    attack = registry.get("attack", choice.name).derived_from(TraceAttack)
    assert attack is not None, "the registry holds no other"
    return attack.questions[0]


def _inquiry_of(choice: TraceAttackChoice) -> TraceInquiry:
    hidden = None if choice.mitigation is None else choice.mitigation.make("component")
    return TraceInquiry(choice.make("attack"), choice.report_name, choice.view, hidden)


def speaker_of(
    world: World, weights: Tensors, tokens: int | None = None, rounds: Sequence[RoundRecord] = ()
) -> TextGenerator:
    """Return the model with these weights and the scenario's decoder, fitted to texts of clients.

    Args:
        world: a scenario with a generation.
        weights: weights of the model.
        tokens: maximum number of new tokens per text; default: the scenario's.
        rounds: completed rounds; the decoder is fitted to texts that no round trained on, see `generation.calibration`.

    Raises:
        FedsimError: no setting of the decoder fits.
    """
    settings, tokenizer, model = generation_of(world), _tokenizer(world), world.models.new()
    model.load_state_dict(dict(weights))
    context = getattr(model, "context", None)
    stops = tokenizer.ends if settings.stop_at_end_token else frozenset[int]()
    limit = settings.max_new_tokens if tokens is None else tokens
    limits = Limits(max_new_tokens=limit, stop_tokens=stops, context=context if isinstance(context, int) else None)
    decoder = settings.decoder.make("component")
    if isinstance(decoder, Decoder):
        decoder = decoder.fit_to_texts(model.eval(), _held_out(world, rounds))
    return TextGenerator(model.eval(), decoder, tokenizer, limits, world.scenario.seed)


def _held_out(world: World, rounds: Sequence[RoundRecord]) -> Batch:
    """Return a random sample of texts that no round trained on: texts of clients, or of the test set."""
    texts, source = world.data.dataset.train, seeding.generator(world.scenario.seed, "texts to fit a decoder")
    if generation_of(world).calibration == "test":
        texts = world.data.dataset.test
        unseen = torch.arange(len(texts))
    else:
        uses = count_training(world, rounds)
        unseen = torch.cat([share[uses[share] == 0] for share in world.data.shares])
    return texts.select(unseen[torch.randperm(len(unseen), generator=source)][:_FITTED])


def fitted_settings(choice: DecoderChoice, fitted: Component[Any]) -> dict[str, Any]:
    """Return the settings of a decoder that fitting has changed."""
    before, after = choice.make("component").config, fitted.config
    names = type(after).model_fields
    return {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}


def _speaker_to_try(world: World) -> TextGenerator:
    """Return a speaker with the untrained model for `check`.

    An unmasker gets the full text length, which decides whether blocks fit. Other decoders get two tokens, because no
    decoder drafts for a single token.
    """
    settings = generation_of(world)
    is_filled_in = registry.get("component", settings.decoder.name).hook == "unmasker"
    return speaker_of(
        world, world.models.first_weights, settings.max_new_tokens if is_filled_in else min(2, settings.max_new_tokens)
    )


def check_trained(world: World) -> None:
    """Check that the selected model is trained.

    Raises:
        ScenarioError: the model is a client's, and clients send gradients.
    """
    if generation_of(world).model == "client" and world.scenario.federation.algorithm == "fedsgd":
        raise ScenarioError(
            "generation.model is 'client', but with federation.algorithm = 'fedsgd' clients send gradients and train "
            "no model. Set federation.algorithm = 'fedavg', or generation.model = 'global'."
        )


def trained_weights(world: World, journal: ServerLog) -> Tensors:
    """Return the last global weights, or the trained weights of the last observed update's client.

    Raises:
        FedsimError: a client's model is selected, but no watched update counted.
    """
    if generation_of(world).model == "global":
        return journal.weights
    if not journal.entries:
        raise FedsimError("no watched update counted, so no client model exists. See threat.rounds.")
    entry = journal.entries[-1]
    sent = {**entry.update.tensors, **entry.update.buffers}
    return {name: tensor - sent[name] if name in sent else tensor for name, tensor in entry.received_weights.items()}


def inquiries_of(world: World) -> list[tuple[TraceQuestion, TraceInquiry]]:
    """Return the scenario's attacks with their questions."""
    return [(_question(attack), _inquiry_of(attack)) for attack in generation_of(world).attacks]


def material_of(world: World, journal: ServerLog) -> StudyInputs:
    """Return the prompts that the scenario's questions need."""
    settings, dataset = generation_of(world), world.data.dataset
    questions = {_question(attack) for attack in settings.attacks}
    members, strangers = list[Tokens](), list[Tokens]()
    if "member" in questions:
        uses = count_training(world, journal.rounds)
        uses[[number for secret in dataset.planted_secrets for number in secret.examples]] = 0
        trained = _sentences(world, dataset.train.inputs[uses > 0])
        non_members = _sentences(world, dataset.test.inputs)
        count = min(settings.candidates, len(trained), len(non_members))
        members, strangers = _sample(world, trained, count, "members"), _sample(world, non_members, count, "strangers")
    secrets = [_secret(world, secret, number) for number, secret in enumerate(dataset.planted_secrets)]
    prompts = _prompts(world)
    return StudyInputs(
        prompts=prompts.tokens,
        extra_inputs=prompts.extra_inputs,
        texts_per_prompt=settings.texts_per_prompt,
        members=tuple(members),
        non_members=tuple(strangers),
        length=settings.prompts.length,
        secrets=tuple(secrets) if "planted" in questions else (),
    )


class _Prompts(NamedTuple):
    """Prompts, further model inputs of each, and the true answers (P, A) to questions about images."""

    tokens: tuple[Tokens, ...]
    extra_inputs: Tensors
    answers: torch.Tensor | None = None


def _asks_about_images(world: World) -> bool:
    return QUESTION in world.data.dataset.train.extra_inputs


def _check_images(settings: GenerationSettings, questions: Collection[str]) -> None:
    """Reject decoders without image input, and questions about sentences."""
    decoder = settings.decoder.make("component")
    if IMAGES.isdisjoint(decoder.modalities):
        raise ScenarioError(
            f"generation.decoder: '{decoder.name}' reads no images, and prompts are questions about images here. "
            'Choose one that does, as generation.decoder = "damro".'
        )
    if settings.prompts.source not in ("clients", "test"):
        raise ScenarioError(
            f"generation.prompts.source is '{settings.prompts.source}', and prompts are questions about images here. "
            "Expected 'clients' or 'test'."
        )
    if about_sentences := sorted(set(questions) - {"prompt", "bits"}):
        raise ScenarioError(
            f"generation.attacks: question '{about_sentences[0]}' is about sentences, and prompts are questions about "
            "images here. Ask 'prompt' or 'bits'."
        )


def _prompts(world: World) -> _Prompts:
    """Return distinct prompts; for visual question answering, questions with their images.

    Raises:
        ScenarioError: there are fewer than two prompts, or their file cannot be read.
    """
    if not _asks_about_images(world):
        return _Prompts(tuple(_texts_to_prompt(world)), {})
    settings, dataset = generation_of(world).prompts, world.data.dataset
    examples = dataset.train if settings.source == "clients" else dataset.test
    source = seeding.generator(world.scenario.seed, "generation prompts")
    chosen = examples.select(torch.randperm(len(examples), generator=source)[: settings.count])
    tokens = tuple(map(tuple, chosen.extra_inputs[QUESTION].tolist()))
    return _Prompts(tokens, {"image": chosen.inputs}, chosen.labels)


def _texts_to_prompt(world: World) -> list[Tokens]:
    """Return distinct prefixes of texts.

    Raises:
        ScenarioError: there are fewer than two prefixes, or their file cannot be read.
    """
    settings, tokenizer, dataset = generation_of(world).prompts, _tokenizer(world), world.data.dataset
    if settings.source in ("clients", "test"):
        planted = {number for secret in dataset.planted_secrets for number in secret.examples}
        places = [number for number in range(len(dataset.train)) if number not in planted]
        sentences = _sentences(
            world, dataset.train.inputs[places] if settings.source == "clients" else dataset.test.inputs
        )
        sentences = _sample(world, sentences, len(sentences), "prompts")
    else:
        lines = settings.texts if settings.path is None else _lines(settings.path)
        sentences = [tuple(tokenizer.encode(line)) for line in lines if line.strip()]
    prompts = list(dict.fromkeys(sentence[: settings.length] for sentence in sentences if sentence))[: settings.count]
    if len(prompts) < 2:  # noqa: PLR2004 - prompt inference needs two prompts
        raise ScenarioError(
            f"generation.prompts: {len(prompts)} different prompts of up to {settings.length} tokens, expected at "
            "least 2. Raise generation.prompts.length, or give more texts."
        )
    return prompts


def _lines(path: Path) -> list[str]:
    try:
        return read_text(path).splitlines()
    except FedsimError as error:
        raise ScenarioError(f"generation.prompts.path: {error}") from error


def _sentences(world: World, inputs: torch.Tensor) -> list[Tokens]:
    """Return distinct sentences of at least two tokens, without padding and end tokens."""
    tokenizer = _tokenizer(world)
    drop = {tokenizer.padding, tokenizer.end}
    rows = (tuple(token for token in row if token not in drop) for row in inputs.tolist())
    return [row for row in dict.fromkeys(rows) if len(row) > 1]


def _sample(world: World, sentences: Sequence[Tokens], count: int, purpose: str) -> list[Tokens]:
    source = seeding.generator(world.scenario.seed, f"generation {purpose}")
    return [sentences[place] for place in torch.randperm(len(sentences), generator=source)[:count].tolist()]


def _secret(world: World, planted: Planted, number: int) -> SecretWithDecoys:
    tokenizer = _tokenizer(world)
    source = np.random.default_rng(seeding.derive(world.scenario.seed, "generation secrets", number))
    filling = planted.text[len(planted.prompt) :]
    decoys = alternatives(planted.form, filling, generation_of(world).decoys_per_secret, source)
    beginning = tokenizer.encode(planted.prompt)
    wholes = tuple(tuple(tokenizer.encode(planted.prompt + ending)) for ending in (filling, *decoys.texts))
    shared = [common_beginning(whole, beginning) for whole in wholes]
    return SecretWithDecoys(
        text=planted.text,
        known_prefix=wholes[0][: shared[0]],
        wholes=wholes,
        halves=tuple(
            whole[: known + (len(whole) - known + 1) // 2] for whole, known in zip(wholes, shared, strict=True)
        ),
        is_planted=bool(planted.examples),
        space=space_of(planted.form),
    )


def _tokenizer(world: World) -> Tokenizer:
    tokenizer = world.data.dataset.tokenizer
    assert tokenizer is not None, "checked before the first round"
    return tokenizer


def _distinct(speeches: Sequence[GeneratedTexts]) -> list[GeneratedTexts]:
    """Return speeches, without those that share their texts with an earlier speech."""
    kept: dict[int, GeneratedTexts] = {}
    for speech in speeches:
        kept.setdefault(id(speech.texts), speech)
    return list(kept.values())


def _traces(speeches: Sequence[GeneratedTexts]) -> dict[str, list[Any]]:
    """Return the table of traces, one row per text; a series is a string of numbers to keep it on one line."""
    rows = [
        (speech.question, description, text.ending, _format_series(text.trace.tokens), _counts(text))
        for speech in speeches
        for description, text in zip(speech.truth, speech.texts, strict=True)
    ]
    columns = ("question", "about", "ending", "tokens", "counts")
    return {name: [row[place] for row in rows] for place, name in enumerate(columns)}


def _counts(text: Generated) -> dict[str, str]:
    return {name: _format_series(series) for name, series in text.trace.series().items()}


def _format_series(series: Sequence[int]) -> str:
    return " ".join(map(str, series))
