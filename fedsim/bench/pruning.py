"""Training of rcp's pruners and repairs on the frozen tiny VLM, once, stored in the user's cache.

The trained model without them is the teacher. The loss is the sum of cross-entropy, the distance of mean and variance
of the repaired states from the teacher's, and the squared distance of the share of kept tokens from its target.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.bench import grids
from fedsim.bench.descent import OnStep, TrainingStep, ignore_step, steps_left, train_once
from fedsim.bench.training import cosine_decay
from fedsim.core import registry, seeding
from fedsim.core.nets import checkpoints
from fedsim.core.nets.visual import Stream
from fedsim.data._grid_questions import answer_places, ask, draw_digits, draw_kinds, paint
from fedsim.data.digit_grids import stocks

Reducer = Any  # component rcp's module, built by the registry

BATCH = 16  # questions per step
_RATE, _DECAY, _IMAGES = 3e-3, 0.01, 2000
_WARM, _COOL = 1.5, 0.2  # temperature at the start, and after 60 % of the steps
_VARIANCE = 3.0
_MINUTES = 1.0
_CLIP = 1.0  # gradients of a few examples would dominate
_SPARSE = 1000.0  # weight of a square: the paper's absolute distance overshoots at this weight


@dataclass(frozen=True)
class PruningRecipe:
    """Training recipe of rcp.

    Attributes:
        share: target share of visual tokens per layer, on average.
        repair: weight of the distance of moments.
        mends: whether states are repaired at all.
        steps: number of training steps.
    """

    share: float
    repair: float = 3.0
    mends: bool = True
    steps: int = 200


RECIPES = {
    "rcp-50": PruningRecipe(0.5),
    "rcp-37": PruningRecipe(0.375),
    "rcp-37-unmatched": PruningRecipe(0.375, repair=0.0),
    "rcp-37-unmended": PruningRecipe(0.375, repair=0.0, mends=False),
}


def load_trained_model(name: str, on_step: OnStep = ignore_step) -> Any:
    """Return the tiny VLM with trained rcp modules, in evaluation mode; the first call trains them (minutes).

    Raises:
        FedsimError: the cache cannot be written.
        MissingExtra: the package with the digits is not installed.
    """
    plain = grids.load_trained_model(on_step)
    model = with_parts(plain)
    train_once(
        name,
        _MINUTES,
        lambda states: train(model, plain, RECIPES[name], states, on_step),
        lambda folder: torch.save(model.reducers[0].state_dict(), folder / checkpoints.WEIGHTS),
    )
    return with_parts(plain, weights=name).eval()


def with_parts(plain: Any, **settings: Any) -> Any:
    """Return a copy of a model with rcp's modules."""
    method = registry.get("component", "rcp")
    reducer = method.make(method.config.model_validate(settings)).with_name("rcp")
    return reducer.prepare(copy.deepcopy(plain), seeding.generator(0, "parts of rcp"))


def train(model: Any, teacher: Any, recipe: PruningRecipe, states: Path, on_step: OnStep) -> None:
    """Train the rcp modules of a model in place, from the last saved state on; all else is frozen."""
    reducer: Reducer = model.reducers[0]
    model.requires_grad_(False)
    reducer.requires_grad_(True)
    model.eval()
    reducer.train()
    if not recipe.mends:
        for repair in reducer.repairs.values():
            nn.init.zeros_(repair.strength)
            repair.requires_grad_(False)
    generator = seeding.generator(0, "training rcp")
    stored = stored_features(teacher, _IMAGES, generator)
    descend(reducer, recipe, lambda: step_loss(model, teacher, stored, recipe, generator), generator, states, on_step)
    model.eval()


def descend(
    reducer: Reducer,
    recipe: PruningRecipe,
    loss: Callable[[], tuple[Tensor, float]],
    generator: torch.Generator,
    states: Path,
    on_step: OnStep,
) -> None:
    """Minimise a loss over the modules, with decreasing temperature and noise of the choices.

    Args:
        reducer: the modules, in training mode.
        recipe: contains the number of steps.
        loss: returns the loss of a step, and the share of kept tokens per layer.
        generator: random source of the choices' noise.
        states: path prefix of the state files.
        on_step: called after each step.
    """
    parameters = [parameter for parameter in reducer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, _RATE, weight_decay=_DECAY)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine_decay(step / recipe.steps, 0.1))
    parts = {"reducer": reducer, "optimizer": optimizer, "rates": rates}
    for step in steps_left(states, "rcp", recipe.steps, generator, **parts):
        done = step / recipe.steps
        reducer.temperature = _WARM + (_COOL - _WARM) * min(1.0, done / 0.6)
        reducer.noise = generator if done < 0.8 else None  # noqa: PLR2004 - the last fifth is as it is used
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value, share = loss()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, _CLIP)
        optimizer.step()
        rates.step()
        note = f"a layer reads {share:.0%} of the visual tokens"
        on_step(TrainingStep("rcp", step + 1, recipe.steps, value.item(), note))


def step_loss(
    model: Any, teacher: Any, stored: tuple[Tensor, Tensor], recipe: PruningRecipe, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Return the loss on newly sampled questions about stored images, and the share of kept tokens."""
    digits, features = stored
    chosen = torch.randint(len(digits), (BATCH,), generator=generator)
    grid_questions = ask(
        digits[chosen], grids.WORDS, draw_kinds(BATCH, grids.MIX, generator), answer_places(grids.MIX), generator
    )
    return parts_loss(model, teacher, features[chosen], grid_questions.questions, grid_questions.answers, recipe)


def parts_loss(
    model: Any, teacher: Any, features: Tensor, questions: Tensor, answers: Tensor, recipe: PruningRecipe
) -> tuple[Tensor, float]:
    """Return the loss on questions about images with stored features, and the share of kept tokens."""
    repaired = tuple(model.reducers[0].repairs)
    scores, mended, share = read_stored(model, features, questions, answers, repaired)
    with torch.no_grad():
        _, true, _ = read_stored(teacher, features, questions, answers, repaired)
    is_real = (answers >= 0).flatten()
    gaps = [
        moment_gap(mended_layer.flatten(0, 1)[is_real], reference.flatten(0, 1)[is_real])
        for mended_layer, reference in zip(mended, true, strict=True)
    ]
    right = F.cross_entropy(scores.flatten(0, 1), answers.flatten())
    sparse = (share - recipe.share).square()
    return 1.5 * right + recipe.repair * torch.stack(gaps).mean() + _SPARSE * sparse, share.item()


def moment_gap(features: Tensor, reference: Tensor, variance: float = _VARIANCE) -> Tensor:
    """Return the distance of mean and variance of each channel, over all tokens (M, width), mean over channels.

    It is relative to the mean variance of `reference`, so its weight does not depend on the scale of a model's states.
    """
    features, reference = features.float(), reference.float()
    spread = reference.var(0, correction=0)
    means = (features.mean(0) - reference.mean(0)).square().mean()
    variances = (features.var(0, correction=0) - spread).square().mean()
    return means / spread.mean() + variance * variances / spread.mean().square()


def read_share(streams: Sequence[Stream]) -> Tensor:
    """Return the share of an image's tokens with attention, mean over the layers that processed these streams."""
    shares = [torch.ones(()) if stream.shares is None else stream.shares[:, stream.visual].mean() for stream in streams]
    return torch.stack(shares).mean()


def read_stored(
    model: Any, features: Tensor, question: Tensor, answers: Tensor, layers: Sequence[str]
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Answer questions about stored features, as in training.

    Returns:
        Scores of the answers, answer-predicting states after some layers, and the share of kept tokens.
    """
    seen = list[Stream]()
    model.listeners.append(seen.extend)
    rows, patches = len(features), torch.arange(model.visual.patches)
    positions = patches.expand(rows, -1)
    encoded = Stream(model.projector(features.float()), positions, positions, front=0)
    last = model.read(model.sequence(encoded, question, answers[:, :-1].clamp_min(0)))
    model.listeners.pop()
    after = [*seen[1:], last]  # input of the next layer, which repairs do not change afterwards
    states = [after[int(number)].hidden_states[:, last.prediction_slice] for number in layers]
    return model.language().score(last.hidden_states[:, last.prediction_slice]), states, read_share(seen)


@torch.no_grad()
def stored_features(teacher: Any, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return grids of training digits, half of them with few classes, and the normalised features of their images."""
    digits = draw_digits(count, grids.CELLS, grids.OCCUPIED, 0.5, generator)
    features = list[Tensor]()
    for chunk in digits.split(250):
        images = paint(chunk, grids.CELLS, stocks("mnist5k")[0], generator)
        features.append(teacher.encoder_norm(_features(teacher, images)).half())
    return digits, torch.cat(features)


def _features(teacher: Any, images: Tensor) -> Tensor:
    hidden = teacher.vision().embed(images)
    places = torch.zeros(hidden.shape[:2], dtype=torch.long)
    for block in list(teacher.encoder)[: teacher.visual.feature_layer + 1]:
        hidden = block(hidden, attention_mask=None, positions=places)
    return hidden[:, 1:]
