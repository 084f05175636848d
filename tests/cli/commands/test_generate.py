"""`fedsim generate`: text as it is made, what the trace shows, and mistakes in a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

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
    assert "1.00 tokens a full forward pass;" in found.stdout, "a draft by all layers is as many passes as tokens"
    assert "proposed of each step: 4 0" in found.stdout


def test_the_same_seed_writes_the_same() -> None:
    asked = (*TINY, "--max-new-tokens", "8", "--decoder", "sampled", "--json")
    first, second, third = (json.loads(fedsim(*asked, "--seed", seed).stdout) for seed in ("1", "1", "2"))
    assert first["tokens"] == second["tokens"] != third["tokens"]
    assert first["text"] == WordTokenizer().decode(first["tokens"])
    assert first["trace"] == {"tokens": [1] * 8, "rows": [1] * 8}
    assert (first["ending"], first["full_passes"], first["tokens_a_full_pass"]) == ("length", 8, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "tiny-llama", "--prompt", ""), "--prompt is empty"),
        ((*TINY, "--decoder", "gredy"), "--decoder: there is no decoder 'gredy'. Did you mean 'greedy'?"),
        (
            (*TINY, "--decoder", "threshold"),
            "'threshold' is of hook unmasker; this command runs autoregressive decoders",
        ),
        ((*TINY, "--decoder", "beam", "--set", "widht=2"), "beam: widht: there is no such key. Did you mean 'width'?"),
        ((*TINY, "--decoder", "beam", "--set", "width=0"), "beam: width: input should be greater than or equal to 1"),
        ((*TINY, "--decoder", "sampled", "--set", "temperature=0"), "temperature: input should be greater than 0"),
        (("--model", "tiny-lama", "--prompt", "a"), "there is no model 'tiny-lama'. Did you mean 'tiny-llama'?"),
        (("--model", "not/there", "--prompt", "a"), "no folder not/there"),
        (
            (*TINY, "--decoder", "speculative", "--set", "top_p=0.9"),
            "top_p is 0.9, but at temperature 0 nothing is drawn",
        ),
        (
            (*TINY, "--decoder", "dynamic-exit", "--set", "exits=[9]"),
            "exits = [9], expected numbers of layers from 1 to 1",
        ),
        ((*TINY, "--decoder", "awrs", "--set", "regex=["), "regex: '[' is no regular expression"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(*arguments)


def told(*arguments: str) -> tuple[dict[str, Any], str]:
    """Return what is printed of a text that failed, and why it did."""
    found = fedsim(*arguments, "--json")
    assert isinstance(found.exception, FedsimError)
    assert found.exception.exit_code == 2
    return json.loads(found.stdout), str(found.exception)


def test_a_constraint_is_asked_about_the_tokenizers_text() -> None:
    asked = (*TINY, "--decoder", "awrs", "--set", "regex=[0-9]{3}", "--set", "ends=whole", "--json")
    found = json.loads(fedsim(*asked).stdout)
    assert (found["ending"], len(found["text"])) == ("finished", 3)
    assert found["text"].isdecimal()


def test_a_dead_end_is_told_apart_from_a_spent_budget_and_what_was_written_stays() -> None:
    dead, why = told(*TINY, "--decoder", "awrs", "--set", "regex=(a|b)(?!.)c")
    assert "accepts no next token after the text so far, so generation cannot continue (a dead end)" in why
    assert (dead["ending"], dead["reason"], dead["text"] in ("a", "b")) == ("failed", why, True)
    spent, why = told(*TINY, "--decoder", "awrs", "--set", "regex=[ab]{40}", "--set", "max_rejects=1")
    assert "spent the 1 rejections of a draw before a token was accepted. Raise max_rejects" in why
    assert spent["ending"] == "failed"


def test_the_context_ends_a_text_in_the_middle_of_a_speculation(tmp_path: Path, smollm2: Path) -> None:
    package_model("Llama", max_position_embeddings=6, vocab_size=50_000).save_pretrained(tmp_path)
    asked = ("--model", str(tmp_path), "--tokenizer", str(smollm2), "--prompt", " the the", "--json")
    greedy, drafted = (json.loads(fedsim(*asked, *more).stdout) for more in ((), ("--decoder", "speculative")))
    assert greedy["ending"] in ("context", "stop")
    assert (drafted["tokens"], drafted["ending"]) == (greedy["tokens"], greedy["ending"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft
def test_svdecode_writes_with_a_base_or_an_adapter_that_is_given(tmp_path: Path, smollm2: Path) -> None:
    peft = pytest.importorskip("peft")
    package_model("Llama", vocab_size=50_000).save_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(
        package_model("Llama", vocab_size=50_000), peft.LoraConfig(r=4, target_modules=["v_proj"])
    )
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "tuned")

    def written(model: str, *more: str) -> list[int]:
        asked = ("--model", str(tmp_path / model), "--prompt", "Hello", "--max-new-tokens", "8", "--json")
        return json.loads(fedsim(*asked, "--tokenizer", str(smollm2), *more).stdout)["tokens"]

    steered = ("--decoder", "svdecode", "--set", "strength=10000")  # odds of 50,000 tokens are small, and so is delta
    adapter = ("--adapter", str(tmp_path / "adapter"))
    by_adapter = written("base", *steered, *adapter)
    assert by_adapter == written("tuned", *steered, "--set", f"base={tmp_path / 'base'}")
    assert by_adapter != written("tuned") == written("base", *adapter)


def test_a_draft_of_other_tokens_is_refused(tmp_path: Path) -> None:
    package_model("Llama").save_pretrained(tmp_path)
    why = refused(*TINY, "--decoder", "speculative", "--set", f"draft={tmp_path}")
    assert "has 23 tokens, the model 258: they have different tokenizers" in why


def test_scores_that_are_no_numbers_are_told_and_nothing_is_written(tmp_path: Path, smollm2: Path) -> None:
    model = package_model("Llama", vocab_size=50_000)
    model.model.norm.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    asked = ("--model", str(tmp_path), "--tokenizer", str(smollm2), "--prompt", "a")
    found, why = told(*asked)
    assert "scores of the next token are not finite" in why
    assert (found["ending"], found["tokens"]) == ("failed", [])


def test_a_checkpoint_needs_its_own_tokenizer_and_sets_the_context(tmp_path: Path, smollm2: Path) -> None:
    package_model("Llama", max_position_embeddings=8, vocab_size=50_000).save_pretrained(tmp_path)
    asked = ("--model", str(tmp_path), "--tokenizer", str(smollm2), "--prompt")
    assert json.loads(fedsim(*asked, "one two three", "--json").stdout)["ending"] in ("context", "stop")
    assert "prompt 0 has 9 tokens, and the model's context is 8 tokens" in refused(*asked, " the" * 9)
    package_model("Llama").save_pretrained(tmp_path)
    assert "has 49152 tokens, the model 23: they are of different models" in refused(*asked, "one")
