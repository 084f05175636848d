"""Training and evaluation of the tiny VLM on grids of digits, once, stored in the user's cache.

Stage 0 replaces a vision encoder pretrained on images and captions: each patch predicts digit, row and column of its
cell, and the class token predicts the set of digits. In stage 1 the encoder is frozen; projector and language model
learn from 16 questions about each image, which do not attend to each other. Products are computed in bfloat16, weights
are stored in single precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.bench.descent import OnStep, TrainingStep, ignore_step, steps_left, train_once
from fedsim.bench.training import share_of_rate
from fedsim.core import registry, seeding
from fedsim.core.nets import checkpoints
from fedsim.core.nets.losses import IGNORED
from fedsim.core.types import InputSpec
from fedsim.data._grid_questions import EMPTY, TILE, answer_places, ask, draw_digits, draw_kinds, paint
from fedsim.data._grid_words import DIGITS, GridWords, Kind
from fedsim.data.digit_grids import stocks

Model = Any  # a tiny VLM, built by the registry

CELLS = 4
OCCUPIED = (3, 6)
MIX: Mapping[Kind, float] = {"position": 0.4, "presence": 0.25, "counting": 0.35}
WORDS = GridWords(CELLS)
_ALIGNED = 0.3


@dataclass(frozen=True)
class StagePlan:
    """Length and optimizer settings of a training stage."""

    name: str
    steps: int
    rate: float
    decay: float
    clip: float


ENCODING = StagePlan("encoder", steps=1000, rate=2e-3, decay=0.05, clip=5.0)
ANSWERING = StagePlan("language model", steps=1000, rate=1.5e-3, decay=0.01, clip=1.0)
_IMAGES = 10_000
_IMAGES_A_STEP, _TURNS = 16, 16
_MINUTES = 10.0


def load_trained_model(on_step: OnStep = ignore_step) -> Model:
    """Return the trained model, in evaluation mode; the first call trains it, for several minutes.

    Raises:
        FedsimError: the cache cannot be written.
        MissingExtra: the package with the digits is not installed.
    """
    model = fresh()
    train_once(
        checkpoints.TINY_VLM,
        _MINUTES,
        lambda states: train(model, states, ENCODING, ANSWERING, on_step),
        lambda folder: write(model, folder),
    )
    return fresh(trained=True)


def write(model: Model, folder: Path) -> None:
    """Write the weights of a model in half precision."""
    torch.save({name: weight.half() for name, weight in model.state_dict().items()}, folder / checkpoints.WEIGHTS)


def fresh(**settings: object) -> Model:
    """Return the model with initial weights, or with weights selected by settings."""
    method = registry.get("model", "tiny-vlm")
    side = CELLS * TILE
    spec = InputSpec((1, side, side), len(WORDS.words), (0.0,), (1.0,))
    with seeding.isolate_randomness(0):
        return method.make(method.config.model_validate(settings), spec).eval()


def train(model: Model, states: Path, encoding: StagePlan, answering: StagePlan, on_step: OnStep) -> None:
    """Train a model in place, in two stages, each from its last saved state on."""
    model.train()
    with seeding.isolate_randomness(1):
        taught = _Taught(model)
    descend(taught, lambda generator: seeing_loss(taught, generator), encoding, states, on_step)
    for parameter in _encoder_parameters(model):
        parameter.requires_grad_(False)
    digits, features = _compute_features(model)
    descend(model, lambda generator: answering_loss(model, digits, features, generator), answering, states, on_step)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.eval()


def descend(
    module: nn.Module, loss: Callable[[torch.Generator], Tensor], plan: StagePlan, states: Path, on_step: OnStep
) -> None:
    """Minimise a loss by AdamW, from the last saved state on."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, plan.rate, betas=(0.9, 0.98), weight_decay=plan.decay)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of_rate(step, plan.steps))
    generator = seeding.generator(0, f"training {plan.name}")
    parts = {"model": module, "optimizer": optimizer, "rates": rates}
    for step in steps_left(states, plan.name, plan.steps, generator, **parts):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(generator)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, plan.clip)
        optimizer.step()
        rates.step()
        on_step(TrainingStep(plan.name, step + 1, plan.steps, value.item()))


class _Taught(nn.Module):
    """The vision encoder with heads for the digit and position of a patch's cell, and for the digits of the image."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        wide = model.visual.encoder_width
        self.cell = nn.Linear(wide, DIGITS + 1)
        self.row, self.column = nn.Linear(wide, CELLS), nn.Linear(wide, CELLS)
        self.present = nn.Linear(wide, DIGITS)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised features of the patches, and of the class token after the last layer."""
        model = self.model
        hidden = model.vision().embed(images)
        places = torch.zeros(hidden.shape[:2], dtype=torch.long)
        features = hidden
        for number, block in enumerate(model.encoder):
            hidden = block(hidden, attention_mask=None, positions=places)
            features = hidden if number == model.visual.feature_layer else features
        return model.encoder_norm(features[:, 1:]), model.encoder_norm(hidden[:, 0])


def seeing_loss(taught: _Taught, generator: torch.Generator) -> Tensor:
    """Return the loss of stage 0 on newly sampled images, which contain more digits than those of questions."""
    digits = draw_digits(32, CELLS, (3, CELLS**2), 0.0, generator)
    patches, whole = taught(paint(digits, CELLS, stocks("mnist5k")[0], generator, shift=1))
    cells = taught.model.visual.cells_of_patches(CELLS)
    classes = digits.where(digits != EMPTY, DIGITS)[:, cells]
    present = (digits[:, :, None] == torch.arange(DIGITS)).any(1).float()
    place_loss = sum(
        F.cross_entropy(head(patches).flatten(0, 1), target.expand(len(digits), -1).flatten())
        for head, target in ((taught.row, cells // CELLS), (taught.column, cells % CELLS))
    )
    cell_loss = F.cross_entropy(taught.cell(patches).flatten(0, 1), classes.flatten())
    return cell_loss + 0.5 * F.binary_cross_entropy_with_logits(taught.present(whole), present) + 0.2 * place_loss


def answering_loss(model: Model, digits: Tensor, features: Tensor, generator: torch.Generator) -> Tensor:
    """Return the loss of stage 1 on newly sampled questions about stored images."""
    chosen = torch.randint(len(digits), (_IMAGES_A_STEP,), generator=generator)
    return turns_loss(model, digits[chosen], model.projector(features[chosen].float()), MIX, _TURNS, generator)


def turns_loss(
    model: Model, digits: Tensor, visual: Tensor, mix: Mapping[Kind, float], turns: int, generator: torch.Generator
) -> Tensor:
    """Return the loss of newly sampled questions, which do not attend to each other, plus the alignment loss.

    Args:
        model: the model.
        digits: grids (B, cells).
        visual: projected visual tokens of the grids (B, N, width).
        mix: weight of each kind of question.
        turns: number of questions per image.
        generator: random source of the questions.
    """
    grids = digits.repeat_interleave(turns, 0)
    kinds = draw_kinds(len(grids), mix, generator)
    grid_questions = ask(grids, WORDS, kinds, answer_places(mix), generator)
    front, asking = model.laid_out(grid_questions.questions)
    texts = torch.cat((asking, grid_questions.answers[:, :-1].clamp_min(0)), 1)
    scores = packed_scores(model, visual, front[: len(digits)], texts.view(len(digits), turns, -1))
    predicting = scores[:, :, asking.shape[1] - 1 :].flatten(0, 2)
    answers = F.cross_entropy(predicting, grid_questions.answers.flatten(), ignore_index=IGNORED)
    return answers + _ALIGNED * aligned_loss(model, visual, digits)


def packed_scores(model: Model, visual: Tensor, front: Tensor, turns: Tensor) -> Tensor:
    """Return next-token scores (B, M, T, V) of turns (B, M, T), which attend only to the image and to themselves."""
    rows, questions, length = turns.shape
    hidden = torch.cat((model.embed_tokens(front), visual, model.embed_tokens(turns.flatten(1))), 1)
    before = hidden.shape[1] - questions * length
    text_positions = torch.arange(before, before + length).repeat(questions)
    positions = torch.cat((torch.arange(before), text_positions)).expand(rows, -1)
    turn = torch.cat((torch.zeros(before, dtype=torch.long), 1 + torch.arange(questions).repeat_interleave(length)))
    sees = ((turn[:, None] == turn) | (turn == 0)).tril()
    mask = torch.zeros(1, 1, len(turn), len(turn)).masked_fill(~sees, -torch.inf)
    for block in model.layers:
        hidden = block(hidden, attention_mask=mask, positions=positions)
    return model.lm_head(model.norm(hidden[:, before:])).unflatten(1, (questions, length))


def aligned_loss(model: Model, visual: Tensor, digits: Tensor) -> Tensor:
    """Return the loss of predicting a cell's words (digit, row, column) from its projected visual tokens."""
    cells = model.visual.cells_of_patches(CELLS)
    odds = visual @ model.embed_tokens.weight.T / model.visual.width**0.5
    words = (WORDS.of("d0") + digits).where(digits != EMPTY, WORDS.of("none"))[:, cells]
    rows, columns = (WORDS.of("r0") + cells // CELLS, WORDS.of("c0") + cells % CELLS)
    targets = (words, rows.expand(len(digits), -1), columns.expand(len(digits), -1))
    return torch.stack([F.cross_entropy(odds.flatten(0, 1), target.flatten()) for target in targets]).sum()


def _encoder_parameters(model: Model) -> list[nn.Parameter]:
    """Return the parameters of the vision encoder."""
    parts = (model.patches, model.encoder, model.encoder_norm)
    return [model.class_token, model.positions, *(parameter for part in parts for parameter in part.parameters())]


@torch.no_grad()
def _compute_features(model: Model) -> tuple[Tensor, Tensor]:
    """Return grids for stage 1, and the normalised features of their images in half precision."""
    generator = seeding.generator(0, "grids to ask about")
    digits = draw_digits(_IMAGES, CELLS, OCCUPIED, 0.5, generator)
    taught, features = _Taught(model), list[Tensor]()
    for chunk in digits.split(250):
        features.append(taught(paint(chunk, CELLS, stocks("mnist5k")[0], generator))[0].half())
    return digits, torch.cat(features)
