"""trace-forest: learn from the attacker's own texts to infer the prompt from a trace.

Idea: a user of the service sends the prompts in question, records the traces, and compares a victim's traces with them.
Equation: y = argmax_c mean over trees of Pr_tree(c | series padded to the longest, histogram of its values).
Assumes: traces of the same prompts, or of known members and non-members; package scikit-learn.
Recovers: the prompt, among the known prompts; for membership the predicted probability.
Fails: prompts outside the training traces; a schedule that does not depend on the text.
Source: Breiman 2001 (forests); used on packet counts by Wei et al. 2024, arXiv 2411.01076.
"""

from __future__ import annotations

from typing import Any, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.generation._traces import tabulate
from fedsim.core.errors import MissingExtra, NotApplicable
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.generation.hooks import TraceAttack
from fedsim.questions.generation.types import TraceCase, TraceQuestion


class TraceForestConfig(Config):
    """Settings of the forest."""

    trees: int = Field(default=100, ge=1, description="trees of the forest")


@final
@attack(
    "trace-forest",
    summary="traces: a random forest infers the prompt, or whether a text was trained on",
    tier="core",
    related="2411.01076",
    extra="data",
)
class TraceForest(TraceAttack[TraceForestConfig]):
    """Fits a random forest of scikit-learn on the known traces."""

    questions: ClassVar[tuple[TraceQuestion, ...]] = ("prompt", "member")

    def search(self, case: TraceCase, generator: torch.Generator) -> Tensor:
        """Return the most likely prompt of every observed text, or its probability of membership."""
        if len(set(case.labels)) < 2:  # noqa: PLR2004 - two classes at least
            raise NotApplicable("it learns from known texts of at least two kinds, and none are known")
        rows = tabulate((*case.known_observations, *case.observations))
        forest = _forest(self.config.trees, int(torch.randint(2**31, (), generator=generator)))
        forest.fit(rows[: len(case.known_observations)], case.labels)
        seen = rows[len(case.known_observations) :]
        if case.question == "prompt":
            return torch.as_tensor(forest.predict(seen))
        return torch.as_tensor(forest.predict_proba(seen)[:, -1])


def _forest(trees: int, seed: int) -> Any:
    try:
        from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise MissingExtra("scikit-learn, which grows the forest,", "pip install 'fedsim-privacy[data]'") from error
    return RandomForestClassifier(n_estimators=trees, random_state=seed)
