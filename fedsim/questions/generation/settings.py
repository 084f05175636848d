"""Settings of a generation and of attacks on its traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from fedsim.core.best_step import TimedConfig
from fedsim.core.choices import Choice
from fedsim.core.registry import Kind
from fedsim.core.types import Config, TraceView
from fedsim.questions.generation.hooks import TraceAttack
from fedsim.questions.generation.types import TraceQuestion


class Prompts(Config):
    """Source, number and length of prompts."""

    source: Literal["clients", "test", "file", "texts"] = Field(
        default="clients",
        description="beginnings of the clients' sentences, or of the test set's; lines of a file; or `texts`",
    )
    count: int = Field(default=50, ge=2, description="prompts, at most; the first of a file, others at random")
    length: int = Field(default=8, ge=1, description="tokens of a prompt, at most")
    path: Path | None = Field(default=None, description="UTF-8 text, one prompt a line")
    texts: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_source(self) -> Prompts:
        if (self.source == "file") != (self.path is not None):
            raise ValueError("source = 'file' and path go together: set both, or leave out both")
        if (self.source == "texts") != bool(self.texts):
            raise ValueError("source = 'texts' and texts go together: set both, or leave out both")
        return self


class DecoderChoice(Choice):
    """A decoder, unmasker or sampler."""

    kind: ClassVar[Kind | None] = "component"
    hooks: ClassVar[tuple[str, ...]] = ("decoder", "unmasker", "sampler")


class MitigationChoice(Choice):
    """A mitigation of side channels."""

    kind: ClassVar[Kind | None] = "component"
    hooks: ClassVar[tuple[str, ...]] = ("mitigation",)


class TraceAttackChoice(Choice):
    """An attack on traces with its question, its view and a mitigation."""

    kind: ClassVar[Kind | None] = "attack"
    base: ClassVar[type[Any]] = TraceAttack

    label: str = Field(default="", description="name in the report; unset: built from attack, target and view")
    question: TraceQuestion | None = Field(
        default=None, description="prompt, member, planted or bits; its first if absent"
    )
    view: TraceView = Field(default="counts", description="outputs, counts, work or timing")
    mitigation: MitigationChoice | None = Field(default=None, description="a component of hook mitigation")

    @field_validator("mitigation", mode="before")
    @classmethod
    def _parse_name(cls, raw: Any) -> Any:
        return {"name": raw} if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _consistent(self) -> TraceAttackChoice:
        if self.view == "activations":
            raise ValueError("view 'activations' is of split inference, which a scenario does not run")
        if self.view in ("outputs", "timing") and self.mitigation is not None:
            raise ValueError(f"a mitigation changes counts and work, not view '{self.view}'. Leave it out")
        return self

    @property
    def report_name(self) -> str:
        """The name in the report."""
        hidden = f", {self.mitigation.name}" if self.mitigation is not None else ""
        return self.label or f"{self.name}, {self.view}{hidden}"


class GenerationSettings(TimedConfig):
    """The generation after the last round, and attacks on its traces."""

    decoder: DecoderChoice = Field(
        default=DecoderChoice(name="greedy"), description="a component of hook decoder, unmasker or sampler"
    )
    model: Literal["global", "client"] = Field(
        default="global", description="the last global model, or that of the first watched client after its training"
    )
    calibration: Literal["clients", "test"] = Field(
        default="clients",
        description="held-out texts that a decoder is fitted to: texts of clients that no round trained on, or the "
        "test set, which may not judge the decoder then",
    )
    prompts: Prompts = Prompts()
    max_new_tokens: int = Field(default=24, ge=1, description="tokens of a text, at most")
    stop_at_end_token: bool = Field(
        default=False, description="whether a token that ends a sentence, or a turn, ends a text"
    )
    texts_per_prompt: int = Field(default=6, ge=3, description="texts of each prompt, each with a seed of its own")
    candidates: int = Field(default=100, ge=4, description="members, and as many others, for question member")
    decoys_per_secret: int = Field(
        default=31, ge=1, description="others of its form for each secret, for question planted"
    )
    samples: int = Field(default=64, ge=2, description="images that a sampler draws, of all classes in turn")
    attacks: tuple[TraceAttackChoice, ...] = ()

    @field_validator("decoder", mode="before")
    @classmethod
    def _parse_name(cls, raw: Any) -> Any:
        return {"name": raw} if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _labels_differ(self) -> GenerationSettings:
        labels = [(attack.report_name, attack.question) for attack in self.attacks]
        twice = [label for label, _ in labels if labels.count((label, _)) > 1]
        if twice:
            raise ValueError(f"attacks: two are reported as '{twice[0]}'. Set 'label' in either")
        return self
