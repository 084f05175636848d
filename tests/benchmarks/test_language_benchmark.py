"""The benchmark of the real language model measures what it says, on a model that is small enough for a test."""

import os

import pytest
import torch

from benchmarks import language
from fedsim.core import registry, seeding
from fedsim.core.errors import MissingExtra


def test_reading_times_the_attack_and_counts_exact_sentences() -> None:
    news, llama = registry.get("dataset", "lee-news"), registry.get("model", "tiny-llama")
    try:
        dataset = news.make(news.config.model_validate({"length": 6, "words": 100}))
    except MissingExtra as error:
        (pytest.fail if "CI" in os.environ else pytest.skip)(str(error))
    with seeding.isolate_randomness(1):
        model = llama.make(llama.config.model_validate({"width": 64, "hidden": 64}), dataset.spec)
    seconds, exact, refused = language.reading(model, dataset, 2, "<= 5", trials=2)
    assert (seconds.n, seconds.must, exact.value, refused.value) == (2, "<= 5", 1.0, 0.0)
    assert 0 < seconds.value < 5
    *_, exact, refused = language.reading(model, dataset, 20, "", trials=1, words=", too many")
    assert (exact.value, refused.value, exact.setting) == (0.0, 1.0, "135M, 20 x 6 tokens, too many")
    seen = language.observe_gradient(model, language.Batch(dataset.train.inputs[:2], dataset.train.labels[:2]), dataset)
    assert seen.update.examples == seen.batch_size == 2
    assert all(torch.isfinite(tensor).all() for tensor in seen.update.tensors.values())
