"""Analogies about countries and opposites: pairs of words, prompts that lack the last word, and states behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedsim.core.layer_calls import layer_outputs
from fedsim.core.masks import without_dropout
from fedsim.core.types import Tokenizer

_COUNTRIES = """France Paris euro French Europe; Germany Berlin euro German Europe; Spain Madrid euro Spanish Europe;
Italy Rome euro Italian Europe; Austria Vienna euro German Europe; Portugal Lisbon euro Portuguese Europe;
Ireland Dublin euro English Europe; Sweden Stockholm krona Swedish Europe; Norway Oslo krone Norwegian Europe;
Denmark Copenhagen krone Danish Europe; Poland Warsaw zloty Polish Europe; Russia Moscow ruble Russian Europe;
Mexico Mexico_City peso Spanish America; Chile Santiago peso Spanish America; Cuba Havana peso Spanish America;
Argentina Buenos_Aires peso Spanish America; Brazil Brasilia real Portuguese America;
Canada Ottawa dollar English America; Australia Canberra dollar English Oceania; Japan Tokyo yen Japanese Asia;
China Beijing yuan Chinese Asia; India Delhi rupee Hindi Asia; Pakistan Islamabad rupee Urdu Asia;
Iraq Baghdad dinar Arabic Asia; Jordan Amman dinar Arabic Asia; Egypt Cairo pound Arabic Africa;
Algeria Algiers dinar Arabic Africa; Kenya Nairobi shilling Swahili Africa; Uganda Kampala shilling English Africa;
Tanzania Dodoma shilling Swahili Africa; Thailand Bangkok baht Thai Asia; Vietnam Hanoi dong Vietnamese Asia"""
_OPPOSITES = """hot cold; big small; fast slow; high low; old young; rich poor; light dark; wet dry; hard soft; day
night; early late; full empty; strong weak; good bad; up down; left right; open closed; near far;
thick thin; true false; happy sad; loud quiet; clean dirty; deep shallow; wide narrow; sharp dull;
heavy weightless; first last; north south; east west"""


class Prompt(NamedTuple):
    """The four words, as numbers of concepts, of one analogy, and the relation that both pairs have."""

    words: tuple[int, int, int, int]
    relation: str


class Corpus(NamedTuple):
    """Concepts, and the pairs of each relation."""

    concepts: tuple[str, ...]
    pairs: dict[str, tuple[tuple[int, int], ...]]


def make_corpus() -> Corpus:
    """Return the words and pairs above."""
    countries = [[word.replace("_", " ") for word in line.split()] for line in _COUNTRIES.split(";")]
    opposites = [line.split() for line in _OPPOSITES.split(";")]
    named = {
        name: [(country[0], country[place]) for country in countries]
        for place, name in enumerate(("capital", "currency", "language", "continent"), 1)
    }
    named["opposite"] = [(opposite[0], opposite[1]) for opposite in opposites]
    concepts = tuple(dict.fromkeys(word for pairs in named.values() for pair in pairs for word in pair))
    number = {word: place for place, word in enumerate(concepts)}
    return Corpus(concepts, {name: tuple((number[a], number[b]) for a, b in pairs) for name, pairs in named.items()})


def draw_prompts(corpus: Corpus, count: int, generator: torch.Generator) -> list[Prompt]:
    """Return distinct analogies, as many of each relation, between pairs with different words on both sides."""
    prompts = list[Prompt]()
    for relation, pairs in corpus.pairs.items():
        every = [(*one, *two) for one in pairs for two in pairs if one[0] != two[0] and one[1] != two[1]]
        order = torch.randperm(len(every), generator=generator)[: count // len(corpus.pairs)]
        prompts += [Prompt(every[place], relation) for place in order.tolist()]
    return prompts


def as_text(prompt: Prompt, concepts: Sequence[str]) -> str:
    """Return the prompt without its last word."""
    a, b, c, _ = (concepts[word] for word in prompt.words)
    return f"{a} : {b} = {c} :"


class Read(NamedTuple):
    """What a model does with texts: states of the last token (N, layers, width), and its likeliest next token (N,)."""

    states: Tensor
    likeliest: Tensor


def read_last(model: nn.Module, tokenizer: Tokenizer, texts: Sequence[str], layers: Sequence[str]) -> Read:
    """Return what layers say of the last token of each text."""
    states, likeliest = [], []
    encoded = [tokenizer.encode(text) for text in texts]
    for start in range(0, len(encoded), 32):
        some = encoded[start : start + 32]
        ends = torch.tensor([len(tokens_of_text) - 1 for tokens_of_text in some])
        # what stands behind a text does not change its states: attention looks back
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in some], batch_first=True)
        each = torch.arange(len(some))
        with torch.no_grad(), without_dropout(), layer_outputs(model, layers) as seen:
            scores = model(tokens)
        states.append(torch.stack([outputs[each, ends] for _, outputs in seen], 1))
        likeliest.append(scores[each, ends].argmax(-1))
    return Read(torch.cat(states), torch.cat(likeliest))
