"""`fedsim generate`: text as it is made, what the trace shows, and mistakes in a sentence."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fedsim.cli import main as _commands  # noqa: F401 - adds every command
from fedsim.cli.commands._console import app
from fedsim.core.errors import FedsimError
from fedsim.data._tokenizer import WordTokenizer
from tests.models.packaged import package_model

TINY = ("--model", "tiny-llama", "--prompt", "Hello")


def fedsim(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["generate", *arguments])


def refused(*arguments: str) -> str:
    found = fedsim(*arguments)
    assert isinstance(found.exception, FedsimError)
    assert found.exception.exit_code == 2
    return str(found.exception)


def test_text_comes_first_and_then_what_it_took() -> None:
    found = fedsim(*TINY, "--max-new-tokens", "6", "--decoder", "speculative", "--set", "layers=2", "--seed", "3")
    assert found.exit_code == 0, found.exception
    assert "6 tokens in 2 steps; ended by: length." in found.stdout
    assert "3.00 tokens a full forward pass;" in found.stdout
    assert "proposed of each step: 4 4" in found.stdout


def test_the_same_seed_writes_the_same() -> None:
    asked = (*TINY, "--max-new-tokens", "8", "--decoder", "sampled", "--json")
    first, second, third = (json.loads(fedsim(*asked, "--seed", seed).stdout) for seed in ("1", "1", "2"))
    assert first["tokens"] == second["tokens"] != third["tokens"]
    assert first["text"] == WordTokenizer().decode(first["tokens"])
    assert first["trace"] == {"tokens": [1] * 8, "accepted": [1] * 8, "proposed": [1] * 8}
    assert (first["ending"], first["full_passes"], first["tokens_a_full_pass"]) == ("length", 8, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "tiny-llama", "--prompt", ""), "--prompt is empty"),
        ((*TINY, "--decoder", "gredy"), "--decoder: there is no decoder 'gredy'. Did you mean 'greedy'?"),
        ((*TINY, "--decoder", "beam", "--set", "widht=2"), "beam: widht: there is no such key. Did you mean 'width'?"),
        ((*TINY, "--decoder", "beam", "--set", "width=0"), "beam: width: input should be greater than or equal to 1"),
        ((*TINY, "--decoder", "sampled", "--set", "temperature=0"), "temperature: input should be greater than 0"),
        (("--model", "tiny-lama", "--prompt", "a"), "there is no model 'tiny-lama'. Did you mean 'tiny-llama'?"),
        (("--model", "not/there", "--prompt", "a"), "there is no folder not/there"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(*arguments)


def test_a_checkpoint_needs_its_own_tokenizer_and_sets_the_context(tmp_path: Path, smollm2: Path) -> None:
    package_model("Llama", max_position_embeddings=8, vocab_size=50_000).save_pretrained(tmp_path)
    asked = ("--model", str(tmp_path), "--tokenizer", str(smollm2), "--prompt")
    assert json.loads(fedsim(*asked, "one two three", "--json").stdout)["ending"] in ("context", "stop")
    assert "prompt 0 has 9 tokens, and the model reads 8 with what it writes" in refused(*asked, " the" * 9)
    package_model("Llama").save_pretrained(tmp_path)
    assert "has 49152 tokens, the model 23: they are of different models" in refused(*asked, "one")
