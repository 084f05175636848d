"""Adapter of a peft model: LoRA, DoRA, IA3, prompt tuning and others. Trainable parameters are sent."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, final

from torch import Tensor, nn

from fedsim.audit.adapters import SubjectAdapter, adapter, is_instance_by_name, model_of, tensors_are, with_model
from fedsim.audit.subject import Subject
from fedsim.core.errors import FedsimError

_SPOKEN: dict[str, str] = {
    "LORA": "LoRA",
    "PROMPT_TUNING": "prompt tuning",
    "P_TUNING": "p-tuning",
    "PREFIX_TUNING": "prefix tuning",
}
_BEFORE_THE_TEXT = {"PROMPT_TUNING", "P_TUNING"}  # virtual tokens have their own scores
_WHOLE = "modules_to_save"
_LOGITS_OF_TOKENS = 3  # dimensions


@final
@adapter
class PeftClient(SubjectAdapter):
    """A peft model with its loss and loader, as a tuple or a `Subject`."""

    input_description: ClassVar[str] = "(model, loss, loader) with a model of peft"

    @classmethod
    def matches(cls, client: Any) -> bool:
        """Return whether the model is a peft model."""
        return is_instance_by_name(model_of(client), "PeftModel", "peft")

    def subject(self) -> Subject:
        """Return the subject with the tensor names of peft files."""
        given = with_model(self.client, self.name)
        self._model: Any = given.model
        self._config: Any = self._model.active_peft_config
        self._trained = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        self._check()
        return replace(
            given,
            logits=given.logits or self._logits(),
            names=_names_in_files(self._model, self._trained),
            notes=(*given.notes, *self._untrained_notes()),
        )

    def input_summary(self) -> str:
        """Describe the sent and the frozen parameters."""
        rank = getattr(self._config, "r", None)
        inactive = [name for name in self._trained if f".{self._model.active_adapter}" not in name]
        whole = sum(_WHOLE in name for name in self._trained)
        kind = f"{f' of rank {rank}' if rank else ''}{f' and {whole} saved whole' if whole else ''}"
        adapters_text = tensors_are(len(self._trained) - len(inactive) - whole, kind)
        base_text = f"{tensors_are(len(inactive), ' of the base')} sent too" if inactive else "base frozen"
        return f"peft {self._kind}, {adapters_text} sent; {base_text}"

    @property
    def _kind(self) -> str:
        kind: str = self._config.peft_type.value
        return "DoRA" if getattr(self._config, "use_dora", False) else _SPOKEN.get(kind, kind)

    def _check(self) -> None:
        if getattr(self._model.get_base_model(), "quantization_method", None) is not None:
            raise FedsimError(
                f"the base of '{self.name}' is quantised, and attacks need its second derivatives. Load it without "
                "quantization_config to audit it."
            )
        merged = [name for name, module in self._model.named_modules() if getattr(module, "merged", False)]
        if merged:
            raise FedsimError(
                f"the adapter of '{self.name}' is merged into '{merged[0]}', so it is not "
                "trained separately. Call model.unmerge_adapter() first."
            )
        if not self._trained:
            raise FedsimError(
                f"the adapter of '{self.name}' is frozen, so a client would send nothing. Load it with "
                "PeftModel.from_pretrained(..., is_trainable=True), or with inference_mode=False in its config."
            )

    def _logits(self) -> Callable[[Any], Tensor] | None:
        if self._config.peft_type.value not in _BEFORE_THE_TEXT:
            return None
        return partial(_drop_virtual_tokens, int(self._config.num_virtual_tokens))

    def _untrained_notes(self) -> tuple[str, ...]:
        """Return a note if every B of LoRA is still 0: the gradient of A is then 0 and hides information."""
        seconds = [p for name, p in self._trained.items() if "lora_B" in name]
        if not seconds or any(bool(p.any()) for p in seconds):
            return ()
        return (
            "Every lora_B is 0, as before the first round, so every lora_A has a gradient of 0. Load a trained adapter "
            "to audit a later round, which may give more away.",
        )


def _drop_virtual_tokens(tokens: int, output: Any) -> Tensor:
    """Return the scores of the text's tokens, without the virtual tokens before it."""
    logits: Tensor = output.logits
    return logits[:, tokens:] if logits.ndim == _LOGITS_OF_TOKENS else logits


def _names_in_files(model: Any, trained: Mapping[str, nn.Parameter]) -> dict[str, str]:
    """Return the model's parameter name for each tensor name of a saved adapter."""
    saved: dict[str, Tensor] = importlib.import_module("peft").get_peft_model_state_dict(model)
    places = {p.data_ptr(): name for name, p in trained.items()}
    names = {name: places[tensor.data_ptr()] for name, tensor in saved.items() if tensor.data_ptr() in places}
    copied = [name for name, tensor in saved.items() if name not in names and _is_one(tensor, trained)]
    left = [name for name in trained if name not in names.values()]
    return {**names, **(dict(zip(copied, left, strict=True)) if len(copied) == len(left) == 1 else {})}


def _is_one(tensor: Tensor, trained: Mapping[str, nn.Parameter]) -> bool:
    return any(tensor.shape == p.shape for p in trained.values())
