"""Tokenizers: words of a public list with a byte fallback, or the tokenizer of a real model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, final

from fedsim.core.errors import FedsimError, MissingExtra, first_line

_BYTES = 256
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_TURN_ENDS = ("<|eot_id|>", "<|im_end|>")  # LLaDA and Llama; Dream and Qwen. Their eos_token is another token
_PIECE = re.compile(r"\s?\w+|\s?[^\w\s]+|\s+")


def frequent_words(texts: Iterable[str], count: int) -> tuple[str, ...]:
    """Return the `count` most frequent words and signs, each with its leading blank; ties in alphabetical order."""
    counts = Counter(piece for text in texts for piece in _PIECE.findall(text))
    return tuple(sorted(counts, key=lambda piece: (-counts[piece], piece))[:count])


@final
class WordTokenizer:
    """Known words are single tokens; all other text is encoded as UTF-8 bytes, so the encoding is lossless.

    Tokens 0 to 255 are bytes, 256 is padding, 257 is the end; words follow. Without words it is a byte tokenizer.

    Args:
        words: known words, from `frequent_words`. They are public, so they must not come from private text.
    """

    padding = _BYTES
    begin = None
    end = _BYTES + 1
    ends = frozenset({end})

    def __init__(self, words: Sequence[str] = ()) -> None:
        self._words = tuple(words)
        self._numbers = {word: self.end + 1 + index for index, word in enumerate(self._words)}

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self.end + 1 + len(self._words)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return [token for piece in _PIECE.findall(text) for token in self._numbers_of(piece)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; invalid UTF-8 becomes a replacement character."""
        return b"".join(map(self._bytes, tokens)).decode("utf-8", errors="replace")

    def _numbers_of(self, piece: str) -> list[int]:
        return [self._numbers[piece]] if piece in self._numbers else list(piece.encode())

    def _bytes(self, token: int) -> bytes:
        if token in (self.padding, self.end):
            return b""
        return bytes([token]) if token < _BYTES else self._words[token - self.end - 1].encode()


@final
class ModelTokenizer:
    """The tokenizer of a Hugging Face checkpoint folder. It runs no code of the folder.

    Raises:
        MissingExtra: transformers is not installed.
        FedsimError: the folder has no tokenizer, or its tokenizer has no end-of-text token.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if self._end is None:
            raise FedsimError(
                f"the tokenizer in {folder} has no end-of-text token (eos_token). Add it to its settings."
            )

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            from transformers import AutoTokenizer  # noqa: PLC0415 - an extra, and slow to import
        except ImportError:
            raise MissingExtra("transformers, which reads tokenizers,", "pip install 'fedsim-privacy[llm]'") from None
        if not self._folder.is_dir():
            raise FedsimError(f"no folder {self._folder}: expected a folder with a Hugging Face tokenizer.")
        if not any((self._folder / name).is_file() for name in _TOKENIZER_FILES):
            raise FedsimError(
                f"{self._folder} holds no tokenizer: expected {_TOKENIZER_FILES[0]}. Save a "
                "tokenizer there with tokenizer.save_pretrained(folder)."
            )
        try:
            return AutoTokenizer.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise FedsimError(f"{self._folder} holds no tokenizer that can be read: {first_line(error)}") from error

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return len(self._tokenizer)

    @property
    def padding(self) -> int:
        """The tokenizer's padding token, or its end-of-text token if it has none."""
        token = self._tokenizer.pad_token_id
        return int(self.end if token is None else token)

    @property
    def begin(self) -> int | None:
        """The tokenizer's class token, or None."""
        token = self._tokenizer.cls_token_id
        return None if token is None else int(token)

    @property
    def end(self) -> int:
        """The tokenizer's end-of-text token, or its separator if it has none, as in BERT."""
        assert self._end is not None
        return self._end

    @property
    def ends(self) -> frozenset[int]:
        """The tokenizer's end-of-text token, and its end-of-turn token if it has one."""
        added = self._tokenizer.get_added_vocab()
        return frozenset({self.end, *(added[name] for name in _TURN_ENDS if name in added)})

    @property
    def _end(self) -> int | None:
        token = self._tokenizer.eos_token_id
        return self._tokenizer.sep_token_id if token is None else int(token)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without the model's special tokens."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True)
