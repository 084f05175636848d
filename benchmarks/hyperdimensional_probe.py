"""The hyperdimensional probe on SmolLM2-135M: analogies that lack their last word, and what noise hides of it.

Prompts are "A : B = C :", of countries and opposites. The state is that of the last token, layers 15 to 30, pooled by
k-means. The figure is probing@1: the share of prompts whose missing word is extracted, blind, among the words that
the prompt lacks. Random: a fifth of the prompts is tested. Disjoint: a fifth of the pairs, each of whose words occurs
in other pairs, is tested, and is in no training prompt. Beside it: a log-linear probe of the same states, the model's
own next token, the probe on the state of the word C alone, and permuted codes (control). Intervals are 95 %, by
bootstrap over the tested pairs (C, D).
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import itertools  # noqa: E402
from collections import Counter, defaultdict  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import NamedTuple  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks._analogies import Corpus, Prompt, as_text, draw_prompts, make_corpus, read_last  # noqa: E402
from benchmarks._decoding import news, real_model  # noqa: E402
from benchmarks._rows import Row, main, measured, with_interval  # noqa: E402
from fedsim.components.probe.hyperdimensional_probe import (  # noqa: E402
    HyperdimensionalProbe,
    HyperdimensionalProbeConfig,
    bind,
    bundle,
    extract,
    make_codebook,
    pool_layers,
    similarity,
)
from fedsim.components.probe.markov_categorical import MarkovCategorical, MarkovCategoricalConfig  # noqa: E402
from fedsim.core.types import Tokenizer  # noqa: E402

_LAYERS = [f"own.model.layers.{number}" for number in range(14, 30)]
_STARTS = (0, 4, 8, 12, 15)
_DIMENSION = 1024


class _Case(NamedTuple):
    corpus: Corpus
    prompts: list[Prompt]
    states: Tensor
    keys: Tensor
    is_right: Tensor
    book: Tensor


def measure(full: bool) -> list[Row]:
    """Return the rows; the long version reads 1,250 prompts in place of 500."""
    tokenizer = news(8).tokenizer
    assert tokenizer is not None
    case, each = _read(1250 if full else 500, tokenizer)
    rows = [measured("concepts", f"{len(case.prompts)} prompts", [len(case.corpus.concepts)], "", "")]
    rows += _oracle(case)
    random = torch.rand(len(case.prompts), generator=torch.Generator().manual_seed(1)) < 0.2  # noqa: PLR2004
    rows += _split("random", case, ~random, random)
    is_trained, is_tested = _disjoint(case)
    rows += _split("disjoint", case, is_trained, is_tested)
    return rows + _layers(case, each, ~random, random)


def _read(count: int, tokenizer: Tokenizer) -> tuple[_Case, Tensor]:
    source, corpus, model = torch.Generator().manual_seed(0), make_corpus(), real_model()
    prompts = draw_prompts(corpus, count, source)
    read = read_last(model, tokenizer, [as_text(prompt, corpus.concepts) for prompt in prompts], _LAYERS)
    keys = read_last(model, tokenizer, [f"{word} :" for word in corpus.concepts], _LAYERS).states
    first = torch.tensor([int(tokenizer.encode(f" {word}")[0]) for word in corpus.concepts])
    answers = torch.tensor([prompt.words[3] for prompt in prompts])
    pooled = torch.stack([pool_layers(state, _STARTS) for state in read.states])
    of_keys = torch.stack([pool_layers(key, _STARTS) for key in keys])[[prompt.words[2] for prompt in prompts]]
    book = make_codebook(len(corpus.concepts), _DIMENSION, source)
    return _Case(corpus, prompts, pooled, of_keys, read.likeliest == first[answers], book), read.states


def _codes(case: _Case) -> Tensor:
    a, b, c, d = (case.book[list(words)] for words in zip(*(prompt.words for prompt in case.prompts), strict=True))
    return bundle(bind(a, b), bind(c, d))


def _oracle(case: _Case) -> list[Row]:
    """Return how rules of selection fare on true codes."""
    codes, every = _codes(case), torch.ones(len(case.prompts), dtype=torch.bool)
    return [
        _row("probing@1, true codes", "blind, words of the prompt are no answer", case, every, _extracted(case, codes)),
        _row("probing@1, true codes", "blind, any word may be the answer", case, every, _extracted_of_all(case, codes)),
    ]


def _disjoint(case: _Case) -> tuple[Tensor, Tensor]:
    """Return which prompts are trained on, and which are tested: their second pair is in no training prompt."""
    pairs = [(name, *pair) for name, pairs_of_relation in case.corpus.pairs.items() for pair in pairs_of_relation]
    occurrences = Counter(word for _, *pair in pairs for word in pair)
    tested = set[tuple[str, int, int]]()
    for place in torch.randperm(len(pairs), generator=torch.Generator().manual_seed(2)).tolist():
        name, key, value = pairs[place]
        if len(tested) < len(pairs) // 5 and min(occurrences[key], occurrences[value]) > 2:  # noqa: PLR2004
            tested.add((name, key, value))
            occurrences.subtract((key, value))
    is_tested = [
        [(prompt.relation, *prompt.words[start : start + 2]) in tested for start in (0, 2)] for prompt in case.prompts
    ]
    first, second = torch.tensor(is_tested).T
    return ~first & ~second, ~first & second


def _split(name: str, case: _Case, is_trained: Tensor, is_tested: Tensor) -> list[Row]:
    codes, source = _codes(case), torch.Generator().manual_seed(3)
    method = HyperdimensionalProbe(HyperdimensionalProbeConfig(dimension=_DIMENSION))
    learned = method.learn(case.states[is_trained], codes[is_trained], source)
    encoded = method.encode(learned, case.states[is_tested])
    is_right = case.is_right[is_tested]
    hits = _extracted(case, encoded, is_tested)
    chances = _chances(case, encoded, is_tested)
    order = torch.randperm(int(is_trained.sum()), generator=source)
    permuted = method.learn(case.states[is_trained], codes[is_trained][order], source)
    keyed = method.learn(case.keys[is_trained], codes[is_trained], source)
    of_keys = method.encode(keyed, case.keys[is_tested])
    of_permuted = method.encode(permuted, case.states[is_tested])
    near = (encoded * codes[is_tested]).mean(1).tolist()
    constant = (-codes[is_tested]).mean(1).tolist()
    return [
        _row("cosine with the true code", name, case, is_tested, near),
        _row("cosine of the code of -1 alone with the true code", name, case, is_tested, constant),
        _row("probing@1", name, case, is_tested, hits),
        _row("probing@1, chosen by the answer (not honest)", name, case, is_tested, _aware(case, encoded, is_tested)),
        _row("probing@1, where the model is wrong", name, case, is_tested, hits, ~is_right),
        _row("probing@1, where the chance of the reading is below 0.01", name, case, is_tested, hits, chances < 0.01),  # noqa: PLR2004
        _row("probing@1, where it is not", name, case, is_tested, hits, chances >= 0.01),  # noqa: PLR2004
        _row("model's next token is right", name, case, is_tested, is_right.double().tolist()),
        _row("log-linear probe", name, case, is_tested, _linear(case, is_trained, is_tested)),
        _row("probing@1, state of C alone", name, case, is_tested, _extracted(case, of_keys, is_tested)),
        _row("most frequent word of the relation", name, case, is_tested, _frequent(case, is_trained, is_tested)),
        _row("probing@1, permuted codes (control)", name, case, is_tested, _extracted(case, of_permuted, is_tested)),
    ]


def _chosen(case: _Case, chosen: Tensor | None) -> list[Prompt]:
    return case.prompts if chosen is None else [case.prompts[number] for number in chosen.nonzero()[:, 0].tolist()]


def _extracted(case: _Case, codes: Tensor, chosen: Tensor | None = None) -> list[float]:
    pairs = zip(codes, _chosen(case, chosen), strict=True)
    return [float(extract(code, case.book, prompt.words[:3]).concept == prompt.words[3]) for code, prompt in pairs]


def _chances(case: _Case, codes: Tensor, chosen: Tensor) -> Tensor:
    pairs = zip(codes, _chosen(case, chosen), strict=True)
    return torch.tensor([extract(code, case.book, prompt.words[:3]).chance for code, prompt in pairs])


def _queries(case: _Case, code: Tensor, prompt: Prompt) -> Tensor:
    """Return the similarities of all queries (queries, concepts)."""
    some = [list(few) for count in range(4) for few in itertools.combinations(prompt.words[:3], count)]
    return torch.stack([similarity(bind(code, *case.book[few]), case.book) for few in some])


def _extracted_of_all(case: _Case, codes: Tensor) -> list[float]:
    scores = [_queries(case, code, prompt) for code, prompt in zip(codes, case.prompts, strict=True)]
    best = [int(score.flatten().argmax()) % len(case.book) for score in scores]
    return [float(concept == prompt.words[3]) for concept, prompt in zip(best, case.prompts, strict=True)]


def _aware(case: _Case, codes: Tensor, chosen: Tensor) -> list[float]:
    pairs = zip(codes, _chosen(case, chosen), strict=True)
    return [float((_queries(case, code, prompt).argmax(1) == prompt.words[3]).any()) for code, prompt in pairs]


def _linear(case: _Case, is_trained: Tensor, is_tested: Tensor) -> list[float]:
    answers = torch.tensor([prompt.words[3] for prompt in case.prompts])
    known, labels = answers[is_trained].unique(return_inverse=True)
    probe = MarkovCategorical(MarkovCategoricalConfig())
    learned = probe.fit(case.states[is_trained], labels, torch.Generator())
    odds = torch.zeros(int(is_tested.sum()), len(case.book))
    odds[:, known] = probe.predict(learned, case.states[is_tested])
    for row, case_prompt in zip(odds, _chosen(case, is_tested), strict=True):
        row[list(case_prompt.words[:3])] = -1
    return (odds.argmax(1) == answers[is_tested]).double().tolist()


def _frequent(case: _Case, is_trained: Tensor, is_tested: Tensor) -> list[float]:
    seen = defaultdict[str, Counter[int]](Counter)
    for prompt in _chosen(case, is_trained):
        seen[prompt.relation][prompt.words[3]] += 1
    return [
        float(
            next(word for word, _ in seen[case_prompt.relation].most_common() if word not in case_prompt.words[:3])
            == case_prompt.words[3]
        )
        for case_prompt in _chosen(case, is_tested)
    ]


def _row(
    name: str, setting: str, case: _Case, chosen: Tensor, values: Sequence[float], kept: Tensor | None = None
) -> Row:
    """Return the mean over tested pairs of the mean of each."""
    by_pair = defaultdict[tuple[int, ...], list[float]](list)
    keeps = [True] * len(values) if kept is None else kept.tolist()
    for prompt, value, keep in zip(_chosen(case, chosen), values, keeps, strict=True):
        if keep:
            by_pair[prompt.words[2:]].append(value)
    means = [sum(hits) / len(hits) for hits in by_pair.values()]
    return with_interval(name, f"{setting}, {sum(keeps)} prompts", means or [0.0], "")


def _layers(case: _Case, each: Tensor, is_trained: Tensor, is_tested: Tensor) -> list[Row]:
    """Return what the states of tested prompts say with noise, and in other layers."""
    codes = _codes(case)
    method = HyperdimensionalProbe(HyperdimensionalProbeConfig(dimension=_DIMENSION))
    rows = []
    learned = method.learn(case.states[is_trained], codes[is_trained], torch.Generator().manual_seed(3))
    sizes = case.states[is_trained].std(0)
    for times in (0.5, 1.0, 2.0, 4.0):
        noise = torch.randn(case.states.shape, generator=torch.Generator().manual_seed(4))
        noisy = (case.states + times * sizes * noise)[is_tested]
        hits = _extracted(case, method.encode(learned, noisy), is_tested)
        rows.append(_row("probing@1", f"random, noise of {times} standard deviations", case, is_tested, hits))
    for place in (0, 8, 15):
        states = each[:, place]
        learned = method.learn(states[is_trained], codes[is_trained], torch.Generator().manual_seed(3))
        hits = _extracted(case, method.encode(learned, states[is_tested]), is_tested)
        rows.append(_row("probing@1", f"random, state of layer {15 + place} alone", case, is_tested, hits))
    return rows


if __name__ == "__main__":
    main(measure, __doc__ or "")
