"""What reads the traces of generations, and what hides them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.hooks.components import Component, Hook
from fedsim.core.types import Modality, Trace, TraceCase, TraceQuestion, TraceView
from fedsim.core.types.configured import ANYTHING, ConfigT, Configured


class TraceAttack(Configured[ConfigT]):
    """Answers a question about texts from their traces. Authors write `search`.

    Attributes:
        questions: which it answers; the first is asked where a scenario names none.
        views: of what it makes something; all others tell it nothing.
    """

    questions: ClassVar[tuple[TraceQuestion, ...]]
    views: ClassVar[frozenset[TraceView]] = frozenset({"outputs", "counts", "work", "timing"})
    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    @abstractmethod
    def search(self, case: TraceCase, generator: torch.Generator) -> Tensor:
        """Return the answer for every seen text.

        To `prompt`: the number of its prompt, shape (N,). To `member` and `planted`: a score, higher for what was
        rather trained on, shape (N,). To `bits`: figures that may depend on the prompt, shape (N, F).
        """

    @final
    def __call__(self, case: TraceCase, generator: torch.Generator) -> Tensor:
        """Check the case, then search.

        Raises:
            NotApplicable: it does not answer this question, or makes nothing of what is seen.
            FedsimError: the answer has another shape, or holds what is no number.
        """
        if case.question not in self.questions:
            raise NotApplicable(f"it answers {' and '.join(self.questions)}, not {case.question}")
        strange = {view for text in case.seen for view in text.views} - self.views
        if strange:
            raise NotApplicable(f"it makes nothing of the view {', '.join(sorted(strange))}")
        answer = self.search(case, generator).detach().double()
        if len(answer) != len(case.seen) or answer.dim() != (2 if case.question == "bits" else 1):
            raise FedsimError(f"an answer for {len(case.seen)} texts has the shape {tuple(answer.shape)}.")
        if not bool(answer.isfinite().all()):
            raise FedsimError("an answer holds what is no finite number.")
        return answer


class Mitigation(Component[ConfigT]):
    """Hook mitigation: changes what can be seen of generations, and nothing that they write.

    Attributes:
        hides_work: whether all steps shall do as much, so that each has to last as long as the slowest.
    """

    hook: ClassVar[Hook] = "mitigation"
    hides_work: ClassVar[bool] = False
    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    @abstractmethod
    def veil(self, traces: Sequence[Trace], generator: torch.Generator) -> list[Trace]:
        """Return what can be seen of each instead.

        Args:
            traces: of all texts that an observer may compare. They stay as they are.
            generator: the mitigation's randomness.
        """
