"""Secrets are planted as often as asked, and generated anew for every seed."""

import os
from pathlib import Path

import pytest

from tests.data.texts import load, texts


def test_canaries_are_repeated_as_often_as_asked(documents: Path) -> None:
    dataset = load("text-file", documents, canaries=3, repetitions=[1, 4], tokenizer="bytes")
    held = texts(dataset, dataset.train)
    assert [len(secret.examples) for secret in dataset.planted_secrets] == [1, 4, 1]
    assert len({secret.text for secret in dataset.planted_secrets}) == 3
    for secret in dataset.planted_secrets:
        assert secret.kind == "canary"
        assert [number for number, text in enumerate(held) if text == secret.text] == list(secret.examples)
        assert dataset.users is not None
        assert len({int(dataset.users[number]) for number in secret.examples}) == 1


def test_identities_are_generated_anew_for_every_seed(documents: Path) -> None:
    pytest.importorskip("faker", reason="pip install 'fedsim-privacy[llm]'") if "CI" not in os.environ else None
    settings = {"identities": 2, "repetitions": [2], "tokenizer": "bytes", "length": 64}
    first, again, other = (load("text-file", documents, **settings, seed=s) for s in (0, 0, 1))
    assert first.planted_secrets == again.planted_secrets != other.planted_secrets
    assert [secret.kind for secret in first.planted_secrets] == ["identity"] * 2
    assert all(secret.text.startswith("The phone number of ") for secret in first.planted_secrets)
