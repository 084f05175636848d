"""DeViL with EfficientNet-Lite0 and SmolLM2-135M: sentences and maps of ImageNet's samples, and an attacker's reading.

`python -m benchmarks._captioned` trains the translator, ten minutes of a processor; so does this command where it is
not in the cache. Sentences: of foolbox's 20 photographs, none of which was trained on; named: the sentence holds the
last word of the class's name; ranked: of the 20 names the right one costs least, each less its cost under the mean
features. Controls: what is said of the next photograph, and channels in another order. Maps: four photographs a
montage, 12 montages; the share of names whose map has its maximum in the photograph's quarter; by chance a quarter.
Attacker: 200 test images of CIFAR-10, whose features a client sends; the class by the first word of the text, among
ten, beside a log-linear probe of the mean features, which learned from the same 200 images. Intervals are 95 %, by
bootstrap over images or montages.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections.abc import Sequence  # noqa: E402

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks import _captioned as parts  # noqa: E402
from benchmarks._rows import Row, main, with_interval  # noqa: E402
from fedsim.components.probe._translator import Translator, pool  # noqa: E402
from fedsim.components.probe.devil import ShownLayers, cost_of, map_phrase, next_scores, see_whole, write  # noqa: E402
from fedsim.components.probe.markov_categorical import MarkovCategorical, MarkovCategoricalConfig  # noqa: E402

_ALL = tuple(range(len(parts.LAYERS)))
_SHOWN = {"all layers": _ALL, **{name: (number,) for number, name in enumerate(parts.LAYERS)}}
_MONTAGES, _TESTED = 12, 20


def measure(full: bool) -> list[Row]:
    """Return the rows; the long version adds a translator that learned without leaving anything out."""
    images, classes = parts.samples()
    names = [parts.photographs()[1][number] for number in classes]
    features = parts.read(images)
    rows = []
    for is_dropping in (True, False) if full else (True,):
        translator = parts.translator(is_dropping)
        with_what = "" if is_dropping else ", nothing left out in training"
        rows += _sentences(translator, features, names, with_what)
        rows += _maps(translator, images, names, with_what, full)
    return rows + _attacker(parts.translator())


def sentences(translator: Translator, features: Sequence[Tensor], layers: Sequence[int]) -> list[str]:
    """Return what the translator and the language model say of each image."""
    texts = write(translator, parts.language(), see_whole(features, layers), parts.END, most=8)
    return [parts.tokenizer().decode(text).strip() for text in texts]


def _is_named(texts: Sequence[str], names: Sequence[str]) -> list[float]:
    return [float(name.split()[-1] in text.split()) for text, name in zip(texts, names, strict=True)]


def _sentences(translator: Translator, features: list[Tensor], names: list[str], with_what: str) -> list[Row]:
    rows = []
    order = torch.randperm(sum(parts.LAYERS.values()), generator=torch.Generator().manual_seed(0))
    others = [*names[1:], names[0]]
    for shown, layers in _SHOWN.items():
        cases = {"": features}
        if layers == _ALL:
            cases[", channels in another order (control)"] = [_reordered(feature, order) for feature in features]
        for case, some in cases.items():
            setting = f"{shown}{with_what}{case}"
            texts, best = sentences(translator, some, layers), _ranked(translator, some, layers, names)
            rows.append(with_interval("named", setting, _is_named(texts, names), ""))
            rows.append(with_interval("ranked first of 20", setting, _same(best, names), ""))
            if not case:
                setting = f"{setting}, of the next photograph (control)"
                rows.append(with_interval("named", setting, _is_named(texts, others), ""))
                rows.append(with_interval("ranked first of 20", setting, _same(best, others), ""))
    return rows


def _same(texts: Sequence[str], names: Sequence[str]) -> list[float]:
    return [float(text == name) for text, name in zip(texts, names, strict=True)]


def _reordered(features: Tensor, order: Tensor) -> Tensor:
    return features[:, order[order < features.shape[1]]]


def mean_features(features: Sequence[Tensor]) -> list[Tensor]:
    """Return the mean of features over images and places, as features of one image."""
    return [feature.float().mean((0, 2, 3), keepdim=True) for feature in features]


def _ranked(translator: Translator, features: list[Tensor], layers: Sequence[int], names: list[str]) -> list[str]:
    """Return the name that fits each image best."""
    seen, usual = see_whole(features, layers), see_whole(mean_features(features), layers)
    phrases = [parts.tokens(name) for name in names]
    costs = [cost_of(translator, parts.language(), seen, phrase) for phrase in phrases]
    less = [cost_of(translator, parts.language(), usual, phrase) for phrase in phrases]
    best = (torch.stack(costs, 1) - torch.cat(less)).argmin(1).tolist()
    return [names[place] for place in best]


def _maps(translator: Translator, images: list[Tensor], names: list[str], with_what: str, full: bool) -> list[Row]:
    source = torch.Generator().manual_seed(1)
    quartets = [torch.randperm(len(images), generator=source)[:4].tolist() for _ in range(_MONTAGES)]
    features = parts.read(_montage([images[number] for number in four]) for four in quartets)
    rows = []
    for shown in ("last", "block 10") if full else ("last",):
        hits = [
            [
                float(_quarter(map_phrase(translator, parts.language(), some, _SHOWN[shown], phrase)[0]) == place)
                for place, phrase in enumerate(parts.tokens(names[number])[:-1] for number in four)
            ]
            for four, some in zip(
                quartets, ([feature[i : i + 1] for feature in features] for i in range(_MONTAGES)), strict=True
            )
        ]
        means = [sum(hit) / len(hit) for hit in hits]
        rows.append(with_interval("name's maximum in its quarter", f"{shown}{with_what}", means, ""))
    return rows


def _montage(four: Sequence[Tensor]) -> Tensor:
    small = [F.interpolate(image[None], scale_factor=0.5, mode="area")[0] for image in four]
    return torch.cat((torch.cat(small[:2], 2), torch.cat(small[2:], 2)), 1)


def _quarter(heat: Tensor) -> int:
    """Return which quarter of the image holds the maximum, in the order of reading; a middle row belongs to none."""
    height, width = heat.shape[0] // 2, heat.shape[1] // 2
    quarters = [quarter for half in (heat[:height], heat[-height:]) for quarter in (half[:, :width], half[:, -width:])]
    return int(torch.stack([quarter.max() for quarter in quarters]).argmax())


def _attacker(translator: Translator) -> list[Row]:
    images, classes = parts.cifar("test", _TESTED)
    known, labels = parts.cifar("train", parts.CAPTIONED)
    sent, public = parts.read(images), parts.read(known)
    sizes = [feature.float().std((0, 2, 3), keepdim=True) for feature in public]
    source = torch.Generator().manual_seed(2)
    noises = [torch.randn(feature.shape, generator=source) for feature in sent]
    order = torch.randperm(sum(parts.LAYERS.values()), generator=source)
    rows = []
    for number, layer in enumerate(parts.LAYERS):
        linear = _Linear(public[number], labels)
        for times in (0, 3):
            some = [
                feature.float() + times * size * noise for feature, size, noise in zip(sent, sizes, noises, strict=True)
            ]
            rows += _read_rows(translator, linear, some, number, classes, f"{layer}, noise of {times} sizes")
        shuffled = [_reordered(feature.float(), order) for feature in sent]
        rows += _read_rows(
            translator, linear, shuffled, number, classes, f"{layer}, channels in another order (control)"
        )
    return rows


class _Linear:
    """A log-linear probe of mean features."""

    def __init__(self, features: Tensor, labels: Sequence[str]) -> None:
        self._probe = MarkovCategorical(MarkovCategoricalConfig())
        numbers = torch.tensor([parts.CIFAR.index(label) for label in labels])
        self._learned = self._probe.fit(pool(features.float()), numbers, torch.Generator())

    def read(self, features: Tensor) -> list[int]:
        """Return the likeliest class of each image."""
        return self._probe.predict(self._learned, pool(features)).argmax(1).tolist()


def _read_rows(
    translator: Translator, linear: _Linear, sent: list[Tensor], layer: int, classes: list[str], setting: str
) -> list[Row]:
    """Return the shares of images whose class is read by either probe."""
    first = [parts.tokens(name)[0] for name in parts.CIFAR]
    seen: ShownLayers = see_whole(sent, (layer,))
    guesses = next_scores(translator, parts.language(), seen)[:, first].argmax(1).tolist()
    right = [parts.CIFAR.index(name) for name in classes]
    pairs = {"class read by devil": guesses, "class read by a log-linear probe": linear.read(sent[layer])}
    return [
        with_interval(name, setting, [float(a == b) for a, b in zip(guessed, right, strict=True)], "")
        for name, guessed in pairs.items()
    ]


if __name__ == "__main__":
    main(measure, __doc__ or "")
