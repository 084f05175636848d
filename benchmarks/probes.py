"""What probes that learned from public text read in the change that a client of SmolLM2-135M sent.

A client sends one gradient of `up_proj` of a block, of two or three sentences, computed in bfloat16. The attacker
computes such changes of public texts whose attribute it knows, and a probe learns to tell it from the logarithm of how
far each neuron moved.
Topic: news of war or of business, from documents told apart by keywords; sentences that hold a keyword are left out.
Name: one of eight, in another sentence than in public text. No document and no sentence is both public and a
client's: of sentences that agencies repeat, the first document keeps its own. Beside it: a
plain linear probe (ridge), permuted public attributes (control), the head asked about the neurons of block 0 that
moved most (control for names, which must succeed), and noise, of which each entry has so many times the
root mean square of the change, in public changes too. Intervals are 95 %, by bootstrap over documents.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import re  # noqa: E402
from collections import defaultdict  # noqa: E402
from collections.abc import Iterable, Iterator, Sequence  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._decoding import news, real_model  # noqa: E402
from benchmarks._news_llama import reports  # noqa: E402
from benchmarks._rows import Row, main, with_interval  # noqa: E402
from fedsim.components.probe.feature_neurons import moved_neurons, name_neurons  # noqa: E402
from fedsim.core import registry  # noqa: E402
from fedsim.core.errors import NotApplicable  # noqa: E402
from fedsim.core.types import Tokenizer  # noqa: E402

_BLOCKS, _LENGTH, _MOVED = (0, 14, 29), 96, 64
_PROBES = ("feature-neurons", "hyperdimensional-probe", "markov-categorical", "devil")
_KEYWORDS = {
    "war": "Taliban Afghanistan Laden troops Israeli Palestinian militants militant Arafat Gaza attack attacks forces "
    "military Pakistan Kashmir",
    "business": "company dollars bank market airline shares per profit economy economic rates Qantas Ansett HIH "
    "workers",
}
_NAMES = ("Alice", "Peter", "Maria", "Thomas", "Susan", "Robert", "Laura", "George")
_PUBLIC_FORMS = ("{} told the story to friends.", "A letter came from {} yesterday.", "They asked {} about it.")
_CLIENT_FORMS = ("My name is {} and I live here.", "Yesterday I met {} again.")


class Text(NamedTuple):
    """A text, its attribute as a number, the document that it comes from, and whether the attacker knows all that."""

    words: str
    attribute: int
    document: int
    is_public: bool


class Change(NamedTuple):
    """How far the neurons of each block moved, by (block, noise), shape (N, neurons)."""

    moved: dict[tuple[int, int], Tensor]
    texts: Sequence[Text]


def measure(full: bool) -> list[Row]:
    """Return the rows; the long version has twice the texts with names, and a noise of 10 too."""
    tokenizer = news(8).tokenizer
    assert tokenizer is not None
    model = real_model().bfloat16()  # half the time
    noises = (0, 1, 10) if full else (0, 1)
    rows = [_by_head(model, tokenizer, with_names(20 if full else 10))]
    for name, texts in {"topic": topics(), "name": with_names(20 if full else 10)}.items():
        rows += _rows_of_probes(name, _changes(model, tokenizer, texts, noises), noises)
    return rows


def _sentences(documents: Iterable[str]) -> Iterator[list[str]]:
    """Yield the sentences of each document that no document before it holds."""
    before = set[str]()
    for document in documents:
        sentences = dict.fromkeys(re.split(r"(?<=[.!?]) ", document.strip()))
        yield [sentence for sentence in sentences if sentence not in before]
        before.update(sentences)


def topics() -> list[Text]:
    """Return two sentences each of documents of two topics, as many of each, without their keywords."""
    words = {topic: set(line.split()) for topic, line in _KEYWORDS.items()}
    known, tested = reports()
    documents, by_topic = known + tested, defaultdict[int, list[list[str]]](list)
    for document, sentences in zip(documents, _sentences(documents), strict=True):
        seen = re.findall(r"\w+", document)
        counts = [sum(word in keywords for word in seen) for keywords in words.values()]
        plain = [
            sentence for sentence in sentences if not set.union(*words.values()) & set(re.findall(r"\w+", sentence))
        ]
        if max(counts) >= 2 * min(counts) + 3 and len(plain) > 1:
            by_topic[counts.index(max(counts))].append(plain)
    each = min(map(len, by_topic.values()))
    return [
        Text(" ".join(plain[start : start + 2]), topic, 2 * place + topic, place % 2 == 0)
        for topic, documents in by_topic.items()
        for place, plain in enumerate(documents[:each])
        for start in range(0, min(6, len(plain) - 1), 2)
    ]


def with_names(each: int) -> list[Text]:
    """Return texts with a name each: a sentence with it between two of news; as many public ones as of clients."""
    known, _ = reports()
    documents = [part for part in _sentences(known) if len(part) > 1][: 2 * each * len(_NAMES)]
    texts = []
    for place, document in enumerate(documents):
        is_public, turn = place % 2 == 0, place // 2
        forms = _PUBLIC_FORMS if is_public else _CLIENT_FORMS
        name = turn % len(_NAMES)
        planted = forms[turn // len(_NAMES) % len(forms)].format(_NAMES[name])
        texts.append(Text(" ".join((document[0], planted, document[1])), name, place, is_public))
    return texts


def _changes(model: nn.Module, tokenizer: Tokenizer, texts: Sequence[Text], noises: Sequence[int]) -> Change:
    chosen = [model.get_parameter(f"own.model.layers.{block}.mlp.up_proj.weight") for block in _BLOCKS]
    model.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad = True
    moved = defaultdict[tuple[int, int], list[Tensor]](list)
    for number, text in enumerate(texts):
        loss = _loss(model, tokenizer, text)
        source = torch.Generator().manual_seed(number)
        for block, parameter in zip(_BLOCKS, torch.autograd.grad(loss, chosen), strict=True):
            sent = parameter.float()
            noise = torch.randn(sent.shape, generator=source) * sent.square().mean().sqrt()
            for times in noises:
                length = (sent + times * noise).norm(dim=1)
                moved[block, times].append(length.clamp_min(torch.finfo(length.dtype).tiny).log())
    return Change({key: torch.stack(rows_of_key) for key, rows_of_key in moved.items()}, texts)


def _by_head(model: nn.Module, tokenizer: Tokenizer, texts: Sequence[Text]) -> Row:
    """Return how often the head names the right name of all eight in the neurons of block 0 that moved most."""
    concepts = {name: list(map(int, tokenizer.encode(f" {name}")))[:1] for name in _NAMES}
    name = f"own.model.layers.{_BLOCKS[0]}.mlp.up_proj.weight"
    model.requires_grad_(False)
    model.get_parameter(name).requires_grad = True
    tested_texts, guesses = [candidate for candidate in texts if not candidate.is_public], []
    for text in tested_texts:
        (slope,) = torch.autograd.grad(_loss(model, tokenizer, text), [model.get_parameter(name)])
        rows = slope[[number for _, number in moved_neurons({name: slope})[:_MOVED]]]
        shares = name_neurons(model, rows, concepts=concepts).shares
        guesses.append(int(torch.stack([shares[each_name].max() for each_name in _NAMES]).argmax()))
    return _row("name read", "head, block 0, noise 0 (control that must succeed)", tested_texts, guesses)


def _loss(model: nn.Module, tokenizer: Tokenizer, text: Text) -> Tensor:
    tokens = torch.tensor([tokenizer.encode(text.words)[:_LENGTH]])
    return nn.functional.cross_entropy(model(tokens[:, :-1])[0].float(), tokens[0, 1:])


def _rows_of_probes(name: str, change: Change, noises: Sequence[int]) -> list[Row]:
    is_public = torch.tensor([text.is_public for text in change.texts])
    attributes = torch.tensor([text.attribute for text in change.texts])
    permuted = attributes[is_public][torch.randperm(int(is_public.sum()), generator=torch.Generator().manual_seed(0))]
    tested_texts = [text for text in change.texts if not text.is_public]
    rows = []
    for (block, times), moved in change.moved.items():
        for method in (*_PROBES, "ridge"):
            setting = f"{method}, block {block}, noise {times}"
            for labels, control in ((attributes[is_public], ""), (permuted, ", permuted (control)")):
                if control and times:
                    continue
                guesses = _read(method, moved[is_public], labels, moved[~is_public])
                rows.append(_row(f"{name} read", f"{setting}{control}", tested_texts, guesses))
    most = int(attributes[is_public].bincount().argmax())
    return [*rows, _row(f"{name} read", "most frequent (chance)", tested_texts, [most] * len(tested_texts))]


def _read(name: str, known: Tensor, labels: Tensor, unknown: Tensor) -> list[int]:
    """Return what a probe says of each change; -1 where it refuses."""
    centre, scale = known.mean(0), known.std(0).clamp_min(1e-6)
    known, unknown = (known - centre) / scale, (unknown - centre) / scale
    if name == "ridge":
        wanted = nn.functional.one_hot(labels).double()
        kernel = known.double() @ known.double().T
        weights = torch.linalg.solve(kernel + known.shape[1] * torch.eye(len(known)).double(), wanted - wanted.mean(0))
        return (unknown.double() @ known.double().T @ weights + wanted.mean(0)).argmax(1).tolist()
    method = registry.get("component", name)
    probe: Any = method.make(method.config())
    try:
        learned = probe.fit(known, labels, torch.Generator().manual_seed(0))
    except NotApplicable:
        return [-1] * len(unknown)
    return probe.predict(learned, unknown).argmax(1).tolist()


def _row(name: str, setting: str, texts: Sequence[Text], guesses: Sequence[int]) -> Row:
    """Return the mean over documents of the share of texts whose attribute was read."""
    by_document = defaultdict[int, list[float]](list)
    for text, guess in zip(texts, guesses, strict=True):
        by_document[text.document].append(float(text.attribute == guess))
    return with_interval(name, setting, [sum(flags) / len(flags) for flags in by_document.values()], "")


if __name__ == "__main__":
    main(measure, __doc__ or "")
