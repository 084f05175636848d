"""Training under PyramidDrop: accuracy, seconds of a step, and the gradient that dropped visual tokens get.

The trained tiny VLM (`fedsim bench model digit-grids`) is trained on, projector and language model, for 300 steps of 16
questions about stored pictures of training digits: with all visual tokens (control), and with PyramidDrop in every
step, positions counted anew as in the paper. Each is made once and kept in the cache. Shares of right answers
about unseen digits have their 95 % interval over questions. Gradients are those of one example's loss: the norm at each
projected visual token and at each patch, by how far the token went. Without --full 200 questions of each kind.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import copy  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator, Mapping  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks._rows import Row, main, measured, with_interval  # noqa: E402
from benchmarks.visual_tokens import row  # noqa: E402
from fedsim.bench import grids  # noqa: E402
from fedsim.bench.grid_accuracy import MEASURED, questions, right_answers  # noqa: E402
from fedsim.bench.pruning import read_stored, stored_features  # noqa: E402
from fedsim.bench.training import share_of_rate  # noqa: E402
from fedsim.core import checkpoints, registry, seeding  # noqa: E402
from fedsim.core.types import Batch  # noqa: E402
from fedsim.core.visual import visual_passes  # noqa: E402
from fedsim.data._grid_questions import answer_places, ask, draw_kinds  # noqa: E402
from fedsim.metrics.statistics import Interval, wilson  # noqa: E402

STEPS, BATCH, RATE, IMAGES = 300, 16, 5e-4, 2000
QUESTIONS, SHORT, EXAMPLES, ROUNDS = 1000, 200, 60, 15
_SEED = 3
_WAYS: Mapping[str, Mapping[str, Any]] = {
    "all tokens": {"shares": (1.0, 1.0), "recount": False},
    "0.5, 0.25, positions anew": {"shares": (0.5, 0.25), "recount": True},
}


def with_pyramid(plain: Any, settings: Mapping[str, Any]) -> Any:
    """Return a copy of a model that drops tokens."""
    method = registry.get("component", "pyramid-drop")
    reducer = method.make(method.config.model_validate(dict(settings))).named("pyramid-drop")
    return reducer.prepare(copy.deepcopy(plain), torch.Generator().manual_seed(0))


def trained(plain: Any, settings: Mapping[str, Any]) -> Any:
    """Return the model trained on under a pyramid, in evaluation mode; the first call trains it."""
    model = with_pyramid(plain, settings)
    shares, recount = settings["shares"], "-anew" if settings["recount"] else ""

    def make(folder: Path) -> None:
        train(model, STEPS)
        torch.save(model.state_dict(), folder / checkpoints.WEIGHTS)

    folder = checkpoints.make_once(f"pyramid-{shares[0]}-{shares[1]}{recount}-{STEPS}", make, takes="some minutes")
    model.load_state_dict(torch.load(folder / checkpoints.WEIGHTS, weights_only=True))
    return model.eval()


def train(model: Any, steps: int) -> None:
    """Train projector and language model in place."""
    generator = seeding.generator(0, "training under a pyramid")
    stored = stored_features(model, IMAGES, generator)
    parts = (model.projector, model.embed_tokens, model.layers, model.norm, model.lm_head)
    parameters = [parameter for part in parts for parameter in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, RATE, betas=(0.9, 0.98), weight_decay=0.01)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of_rate(step, steps))
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = _loss(model, stored, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rates.step()


def _loss(model: Any, stored: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
    digits, features = stored
    chosen = torch.randint(len(digits), (BATCH,), generator=generator)
    kinds = draw_kinds(BATCH, grids.MIX, generator)
    grid_questions = ask(digits[chosen], grids.WORDS, kinds, answer_places(grids.MIX), generator)
    scores, _, _ = read_stored(model, features[chosen], grid_questions.questions, grid_questions.answers, ())
    return F.cross_entropy(scores.flatten(0, 1), grid_questions.answers.flatten())


def accuracy_rows(plain: Any, models: Mapping[str, Any], count: int) -> Iterator[Row]:
    """Yield right answers before and after the training, each with the pyramid that it was trained with."""
    batches = {kind: questions(kind, count, _SEED) for kind in MEASURED}
    for label, settings in _WAYS.items():
        before = with_pyramid(plain, settings).eval()
        for name, model in (("before", before), ("trained", models[label])):
            for kind, batch in batches.items():
                yield row(f"right, {kind}", f"{name}: {label}", _share(right_answers(model, batch)))


def _share(right: Tensor) -> Interval:
    return wilson(int(right.sum()), len(right))


def gradient_rows(model: Any, label: str) -> Iterator[Row]:
    """Yield the gradient's norm by how far a token went, in shares of the mean over all tokens of the example."""
    by_place: dict[str, list[float]] = {}
    for kind in MEASURED:
        batch = questions(kind, EXAMPLES // len(MEASURED), _SEED + 1)
        for number in range(len(batch)):
            pixels, tokens, stage = _gradients(model, batch.taken(torch.tensor([number])))
            for place, norms in (("pixels", pixels), ("projected tokens", tokens)):
                for name, chosen in stage.items():
                    if bool(chosen.any()):
                        share = float(norms[chosen].mean() / norms.mean())
                        by_place.setdefault(f"{place}, {name}", []).append(share)
    for name, shares in by_place.items():
        yield with_interval(f"gradient: {name}", label, shares, "of the mean token's")


def _gradients(model: Any, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return norms at each patch of pixels and at each projected token (N,), and which tokens went how far."""
    images, question = batch.inputs.clone().requires_grad_(), batch.given["question"]
    encoded = model.encode(images, question)
    encoded.hidden.retain_grad()
    with visual_passes(model) as passes:
        last = model.read(model.sequence(encoded, question, batch.labels[:, :-1].clamp_min(0)))
    scores = model.language().score(last.hidden[:, last.predicting])
    F.cross_entropy(scores.flatten(0, 1), batch.labels.flatten()).backward()
    assert images.grad is not None
    patches = images.grad.unflatten(2, (model.visual.grid[0], -1)).unflatten(4, (model.visual.grid[1], -1))
    read = [set(patch[0].tolist()) for patch in passes[0].patches]
    mask = {
        "to the end": [place in read[-1] for place in range(model.visual.patches)],
        "dropped before layer 4": [place in read[2] - read[4] for place in range(model.visual.patches)],
        "dropped before layer 2": [place not in read[2] for place in range(model.visual.patches)],
    }
    pixels = patches.square().sum((0, 1, 3, 5)).sqrt().flatten()
    return pixels, encoded.hidden.grad[0].norm(dim=-1), {name: torch.tensor(flags) for name, flags in mask.items()}


def seconds_rows(plain: Any) -> Iterator[Row]:
    """Yield processor seconds of a training step beside the step with all tokens, in turn."""
    base, pyramid = (with_pyramid(plain, settings) for settings in list(_WAYS.values())[:2])
    generator = torch.Generator().manual_seed(0)
    stored = stored_features(plain, BATCH, generator)
    ratios = list[float]()
    for number in range(ROUNDS + 1):
        seconds = dict[bool, float]()
        for is_own in (True, False) if number % 2 else (False, True):
            begin = time.process_time()
            _loss(pyramid if is_own else base, stored, generator).backward()
            seconds[is_own] = time.process_time() - begin
        ratios.append(seconds[False] / seconds[True])
    yield measured("training step: all tokens' seconds / own", "0.5, 0.25", ratios[1:], "times", "")


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    plain = grids.trained()
    models = {label: trained(plain, settings) for label, settings in _WAYS.items()}
    drops = [label for label in _WAYS if label != "all tokens"]
    return [
        *accuracy_rows(plain, models, QUESTIONS if full else SHORT),
        *(one for label in drops for one in gradient_rows(models[label], label)),
        *seconds_rows(plain),
    ]


if __name__ == "__main__":
    main(measure, __doc__ or "")
