"""`fedsim generate`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from fedsim.cli.commands._console import command, say, screen
from fedsim.core.errors import FedsimError, did_you_mean

if TYPE_CHECKING:
    from fedsim.core.hooks import Decoder
    from fedsim.core.types import Generated
    from fedsim.generation import Piece
    from fedsim.generation.writer import Writer

_SHOWN = 40  # steps of a trace that fit a screen


@command(epilog='Example: fedsim generate --decoder speculative --set layers=4 --prompt "The capital of France is"')
def generate(
    prompt: Annotated[str, typer.Option(help="prompt of the text")],
    model: Annotated[
        str, typer.Option(help="a model's name, or the folder of a Hugging Face checkpoint")
    ] = "smollm2-135m",
    decoder: Annotated[str, typer.Option(help="how it writes, as `fedsim list components` names it")] = "greedy",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting of the decoder")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="folder of a tokenizer; absent: the model's own")] = None,
    adapter: Annotated[Path | None, typer.Option(help="folder of a LoRA adapter of package peft for the model")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of what is drawn")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="tokens behind the prompt, at most")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="print text and trace as JSON, at the end")] = False,
) -> None:
    """Generate a completion of a prompt; then print the trace's leakage and the tokens per full forward pass."""
    from fedsim.core import seeding
    from fedsim.core.hooks import GenerationInputs
    from fedsim.core.types import Limits
    from fedsim.generation import stream
    from fedsim.generation.writer import load_writer, words

    if not prompt:
        raise FedsimError("--prompt is empty, and generation needs at least 1 token. Add a word.")
    method = _decoder(decoder, set_ or [])
    writer = load_writer(model, tokenizer, seed, adapter)
    limits = Limits(max_new_tokens=max_new_tokens, stop_tokens=writer.tokenizer.ends, context=writer.context)
    condition = GenerationInputs((tuple(writer.tokenizer.encode(prompt)),))
    sources = seeding.generators(seed, "writing", [(0,)])
    pieces = stream(method, writer.model, condition, limits, sources, tokenizer=writer.tokenizer)
    results: list[Generated] = []
    for text in words(writer.tokenizer, _tokens(pieces, results)):
        if not as_json:
            screen.print(Text(text), end="", soft_wrap=True)
    (generated,) = results
    if as_json:
        typer.echo(json.dumps(_as_data(decoder, writer, generated), indent=1))
    else:
        say(f"\n\n{_summary(writer, generated)}")
    if generated.ending == "failed":
        raise FedsimError(generated.reason)


def _decoder(name: str, settings: list[str]) -> Decoder[Any, Any]:
    from fedsim.core import registry
    from fedsim.scenario.reading import read_settings

    components = registry.entries("component")
    known = [component for component, entry in components.items() if entry.hook == "decoder"]
    if name in components and components[name].hook in ("unmasker", "sampler"):
        raise FedsimError(
            f"--decoder: '{name}' is of hook {components[name].hook}; this command runs "
            "autoregressive decoders. For this method use a scenario with a table [generation]."
        )
    if name not in known:
        raise FedsimError(f"--decoder: there is no decoder '{name}'.{did_you_mean(name, known)}")
    method = registry.get("component", name)
    return method.make(read_settings(method, settings)).with_name(name)


def _tokens(pieces: Iterator[Piece], results: list[Generated]) -> Iterator[tuple[int, ...]]:
    for piece in pieces:
        yield piece.tokens
        if piece.result is not None:
            results.append(piece.result)


def _as_data(decoder: str, writer: Writer, generated: Generated) -> dict[str, Any]:
    passes = writer.passes(generated.trace)
    return {
        "decoder": decoder,
        "text": writer.tokenizer.decode(generated.tokens),
        "tokens": generated.tokens,
        "ending": generated.ending,
        "reason": generated.reason,
        "trace": {"tokens": generated.trace.tokens, **generated.trace.series()},
        "full_passes": passes,
        "tokens_a_full_pass": len(generated.tokens) / passes if passes else None,
        "seconds": sum(generated.seconds),
    }


def _summary(writer: Writer, generated: Generated) -> str:
    count, passes, seconds = len(generated.tokens), writer.passes(generated.trace), sum(generated.seconds)
    lines = [f"{count} tokens in {len(generated.trace.tokens)} steps; ended by: {generated.ending}."]
    if passes and seconds:
        lines.append(f"{count / passes:.2f} tokens a full forward pass; {count / seconds:.1f} tokens a second.")
    for name, series in {"tokens": generated.trace.tokens, **generated.trace.series()}.items():
        ellipsis = " ..." if len(series) > _SHOWN else ""
        lines.append(f"{name} of each step: {' '.join(map(str, series[:_SHOWN]))}{ellipsis}")
    return "\n".join(lines)
