"""Base classes of attacks on generation traces, and of mitigations."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.types import Modality, TraceView
from fedsim.core.types.configured import ANYTHING, ConfigT, ConfiguredMethod
from fedsim.questions.generation.types import TraceCase, TraceQuestion


class TraceAttack(ConfiguredMethod[ConfigT]):
    """Answers a question about texts from their traces. Subclasses implement `search`.

    Attributes:
        questions: supported questions; the first is the default of a scenario.
        views: supported views; others are refused.
    """

    questions: ClassVar[tuple[TraceQuestion, ...]]
    views: ClassVar[frozenset[TraceView]] = frozenset({"outputs", "counts", "work", "timing"})
    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    @abstractmethod
    def search(self, case: TraceCase, generator: torch.Generator) -> Tensor:
        """Return the answer for each observed text.

        For `prompt`: the index of its prompt, shape (N,). For `member` and `planted`: a score, higher for likely
        training data, shape (N,). For `bits`: features that may depend on the prompt, shape (N, F).
        """

    @final
    def __call__(self, case: TraceCase, generator: torch.Generator) -> Tensor:
        """Check the case, then call `search`.

        Raises:
            NotApplicable: it does not support this question or this view.
            FedsimError: the answer has another shape, or is not finite.
        """
        if case.question not in self.questions:
            raise NotApplicable(f"it answers {' and '.join(self.questions)}, not {case.question}")
        strange = {view for text in case.observations for view in text.views} - self.views
        if strange:
            raise NotApplicable(f"it makes nothing of the view {', '.join(sorted(strange))}")
        answer = self.search(case, generator).detach().double()
        if len(answer) != len(case.observations) or answer.dim() != (2 if case.question == "bits" else 1):
            raise FedsimError(f"an answer for {len(case.observations)} texts has the shape {tuple(answer.shape)}.")
        if not bool(answer.isfinite().all()):
            raise FedsimError("an answer holds values that are not finite.")
        return answer
