"""DeViL on grids of digits: what each layer says, where, and what an attacker reads from features that a client sends.

Four digits of mnist5k stand in a grid of four by four cells, 56x56 pixels. A network of three stages learns which
digits are there, and is frozen; so is a tiny Llama that learned captions, the digits in any order: in ascending order
the first word would be the smallest digit, and maps and attackers look at first words. A translator learns from 2,000
grids of training digits, each with four captions; 200 grids of test digits are read. Recall: the share of an image's
digits in its text. Pointing: the share of the digits of 40 grids whose map has its maximum in the digit's cell; by
chance a sixteenth. Beside it: the same without places and layers left out in training. Attacker: the four likeliest
first words, beside a linear probe of the mean features, with noise, behind a client's own training, and of another
image (chance). Features that say which digits there are, and nothing else, are the control that must succeed.
Intervals are 95 %, by bootstrap over images.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections.abc import Sequence  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._rows import Row, main, with_interval  # noqa: E402
from fedsim.components.probe._translator import Translator, pool  # noqa: E402
from fedsim.components.probe.devil import (  # noqa: E402
    Devil,
    DevilConfig,
    Language,
    map_phrase,
    next_scores,
    see_whole,
    write,
)
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.types import InputSpec  # noqa: E402
from fedsim.generation import hidden_states  # noqa: E402

_CELLS, _SIDE, _DIGITS, _END, _BEGIN = 4, 14, 4, 10, 11
_KNOWN, _TESTED, _MAPPED = 2000, 200, 40
_ORDERS = 4  # of the digits of a caption, where their order is free
_STAGES = ("1", "4", "7")  # behind each convolution's activation


class Grids(NamedTuple):
    """Images (N, 1, 56, 56), the digits of each in ascending order (N, 4), and the cell of each (N, 4)."""

    images: Tensor
    digits: Tensor
    cells: Tensor


def measure(full: bool) -> list[Row]:
    """Return the rows; the long version trains translators for 1,500 steps in place of 600."""
    train, test = _digits()
    source = torch.Generator().manual_seed(0)
    known, shown = draw_grids(*train, _KNOWN, source), draw_grids(*test, _TESTED, source)
    with seeding.isolate_randomness(0):
        network = _network()
    _learn(network, known, 400, source)
    several = unordered(known, source)
    language = _language(several, source)
    features, sent = _read(network, known.images), _read(network, shown.images)
    rows, steps = _planted(several, language, shown), 1500 if full else 600
    reader = _translator(features, several, language, steps)
    plain = _translator(features, several, language, steps, hidden_places=0.0, hidden_layers=0.0)
    rows += _read_outs(reader, language, sent, shown, "")
    rows += _read_outs(plain, language, sent, shown, ", nothing left out in training")
    client = _client(network, test, source)
    return rows + _attacker(reader, language, (features, known), (sent, _read(client, shown.images)), shown)


def unordered(known: Grids, generator: torch.Generator) -> Grids:
    """Return the same images several times, the digits of each in other orders; cells follow their digits."""
    orders = torch.rand(_ORDERS, *known.digits.shape, generator=generator).argsort(2).flatten(0, 1)
    digits, cells = (table.repeat(_ORDERS, 1).gather(1, orders) for table in (known.digits, known.cells))
    return Grids(known.images, digits, cells)


def _translator(features: list[Tensor], several: Grids, language: Language, steps: int, **rates: float) -> Translator:
    """Return a translator that learned captions in any order."""
    method = Devil(DevilConfig(steps=steps, batch=64).model_copy(update=rates))
    made = method.make_translator([one.shape[1] for one in features], 64, torch.Generator().manual_seed(1))
    captions = [[*digits, _END] for digits in several.digits.tolist()]
    repeated = [one.repeat(_ORDERS, 1, 1, 1) for one in features]
    method.train(made, language, repeated, captions, torch.Generator().manual_seed(2))
    return made.eval()


def _planted(several: Grids, language: Language, shown: Grids) -> list[Row]:
    """Return what is read where features say which digits there are (control), and of another image (chance)."""
    known, sent = (
        F.one_hot(numbers, 10).sum(1).float()[:, :, None, None]
        for numbers in (several.digits[: len(several.images)], shown.digits)
    )
    reader = _translator([known], several, language, 300, hidden_places=0.0, hidden_layers=0.0)
    scores = next_scores(reader, language, see_whole([sent], (0,)))[:, :10]
    cases = {"planted digits (control)": scores, "planted digits of another image": scores.roll(1, 0)}
    return [
        with_interval("digits read by devil", case, _recall(case_scores, shown), "")
        for case, case_scores in cases.items()
    ]


def _digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    method = registry.get("dataset", "mnist5k")
    data = method.make(method.config())
    small = [F.interpolate(part.inputs, (_SIDE, _SIDE), mode="area") for part in (data.train, data.test)]
    return (small[0], data.train.labels), (small[1], data.test.labels)


def draw_grids(digits: Tensor, labels: Tensor, count: int, generator: torch.Generator) -> Grids:
    """Return grids with four different digits in four cells; the others are as dark as a digit's darkest pixel."""
    size = _CELLS * _SIDE
    images = torch.full((count, 1, size, size), float(digits.min()))
    digits_of_rows, cells = torch.zeros(count, _DIGITS, dtype=torch.long), torch.zeros(count, _DIGITS, dtype=torch.long)
    of_label = [(labels == number).nonzero()[:, 0] for number in range(10)]
    for row in range(count):
        digits_of_rows[row] = torch.randperm(10, generator=generator)[:_DIGITS].sort().values
        cells[row] = torch.randperm(_CELLS**2, generator=generator)[:_DIGITS]
        for digit, cell in zip(digits_of_rows[row].tolist(), cells[row].tolist(), strict=True):
            chosen = of_label[digit][int(torch.randint(len(of_label[digit]), (), generator=generator))]
            top, left = (_SIDE * position for position in divmod(cell, _CELLS))
            images[row, :, top : top + _SIDE, left : left + _SIDE] = digits[chosen]
    return Grids(images, digits_of_rows, cells)


def _network() -> nn.Sequential:
    stages: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64)):
        stages += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    stages[-1] = nn.Identity()
    return nn.Sequential(nn.MaxPool2d(2), *stages, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def _learn(network: nn.Module, known: Grids, steps: int, generator: torch.Generator) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    wanted = F.one_hot(known.digits, 10).sum(1).float()
    for _ in range(steps):
        some = torch.randint(len(wanted), (64,), generator=generator)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(network(known.images[some]), wanted[some]).backward()
        optimizer.step()
    network.eval()


def _client(network: nn.Sequential, test: tuple[Tensor, Tensor], generator: torch.Generator) -> nn.Module:
    """Return the network behind a client's own training, on digits that are not public."""
    network_of_client: Any = _network()
    network_of_client.load_state_dict(network.state_dict())
    _learn(network_of_client, draw_grids(*test, 500, generator), 200, generator)
    return network_of_client


def _language(known: Grids, generator: torch.Generator) -> Language:
    method = registry.get("model", "tiny-llama")
    with seeding.isolate_randomness(3):
        config = method.config.model_validate({"width": 64, "hidden": 128, "dropout": 0.0})
        model = method.make(config, InputSpec((12,), 12, (), (), vocabulary=12))
    ends = torch.full((len(known.digits), 1), _END)
    texts = torch.cat((torch.full_like(ends, _BEGIN), known.digits, ends), 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(300):
        some = texts[torch.randint(len(texts), (64,), generator=generator)]
        optimizer.zero_grad()
        F.cross_entropy(model(some[:, :-1]).flatten(0, 1), some[:, 1:].flatten()).backward()
        optimizer.step()
    return Language(model, _BEGIN)


def _read(network: nn.Module, images: Tensor) -> list[Tensor]:
    return [hidden_states(network, stage, images) for stage in _STAGES]


def _read_outs(
    translator: Translator, language: Language, sent: list[Tensor], shown: Grids, with_what: str
) -> list[Row]:
    rows = []
    for name, layers in {"all stages": (0, 1, 2), "stage 1": (0,), "stage 2": (1,), "stage 3": (2,)}.items():
        texts = write(translator, language, see_whole(sent, layers), _END, most=_DIGITS + 1)
        recall = [len(set(text) & set(row)) / _DIGITS for text, row in zip(texts, shown.digits.tolist(), strict=True)]
        rows.append(with_interval("recall of the text", f"{name}{with_what}", recall, ""))
    few = [feature[:_MAPPED] for feature in sent]
    for stage in (1, 2):
        maps = torch.stack([map_phrase(translator, language, few, (stage,), [digit]) for digit in range(10)], 1)
        hits = [
            sum(_cell(by_digit[digit]) == cell for digit, cell in zip(digits, cells, strict=True)) / _DIGITS
            for by_digit, digits, cells in zip(maps, shown.digits.tolist(), shown.cells.tolist(), strict=False)
        ]
        rows.append(with_interval("pointing", f"stage {stage + 1}{with_what}", hits, ""))
    return rows


def _cell(heat: Tensor) -> int:
    """Return the cell in which the maximum of a map, stretched to the image, lies."""
    size = _CELLS * _SIDE
    whole = F.interpolate(heat[None, None], (size, size), mode="bilinear", align_corners=False)[0, 0]
    top, left = divmod(int(whole.flatten().argmax()), size)
    return top // _SIDE * _CELLS + left // _SIDE


def _attacker(
    translator: Translator,
    language: Language,
    public: tuple[list[Tensor], Grids],
    sent: tuple[list[Tensor], list[Tensor]],
    shown: Grids,
) -> list[Row]:
    """Return the shares of an image's digits among the four likeliest, from what a client sends of each stage."""
    features, known = public
    rows = []
    for stage in range(len(_STAGES)):
        linear = _linear(features[stage], known.digits)
        size = features[stage].std((0, 2, 3), keepdim=True)
        noise = torch.randn(sent[0][stage].shape, generator=torch.Generator().manual_seed(4))
        cases = {f"noise of {times} sizes": sent[0][stage] + times * size * noise for times in (0, 3, 10)}
        cases["client's own training"] = sent[1][stage]
        cases["features of another image (chance)"] = sent[0][stage].roll(1, 0)
        for case, some in cases.items():
            whole = [some if number == stage else feature for number, feature in enumerate(sent[0])]
            scores = next_scores(translator, language, see_whole(whole, (stage,)))[:, :10]
            setting = f"stage {stage + 1}, {case}"
            rows.append(with_interval("digits read by devil", setting, _recall(scores, shown), ""))
            rows.append(with_interval("digits read by a linear probe", setting, _recall(linear(pool(some)), shown), ""))
    return rows


def _recall(scores: Tensor, shown: Grids) -> Sequence[float]:
    guesses = scores.topk(_DIGITS).indices.tolist()
    return [len(set(some) & set(row)) / _DIGITS for some, row in zip(guesses, shown.digits.tolist(), strict=True)]


def _linear(features: Tensor, digits: Tensor) -> nn.Module:
    """Return a linear map from mean features to the log-odds of each digit, scaled by the public features."""
    means, wanted = pool(features), F.one_hot(digits, 10).sum(1).float()
    scale = nn.BatchNorm1d(means.shape[1], affine=False, momentum=None)
    scale(means)
    probe = nn.Sequential(scale, nn.Linear(means.shape[1], 10)).eval()
    nn.init.zeros_(probe.get_parameter("1.weight"))
    search = torch.optim.LBFGS(probe.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        value = F.binary_cross_entropy_with_logits(probe(means), wanted)
        value = value + 1e-4 * probe.get_parameter("1.weight").square().sum()
        value.backward()
        return value

    search.step(loss)
    return probe.requires_grad_(False)


if __name__ == "__main__":
    main(measure, __doc__ or "")
