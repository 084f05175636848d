"""idlg: infer the label from the gradient, then search the image alone as dlg does (Improved DLG, iDLG).

Idea: with cross entropy, the row of the last layer's gradient that points against all others belongs to the true class.
    With the label known, the search has fewer unknowns than DLG.
Equation: min over x of |g(x, y) - g*|^2, with y the inferred label and g* the observed gradient.
Assumes: honest-but-curious server, a single gradient. Granted labels are used; labels of several examples are inferred
    by `label_rule`. Dropout masks of known rates are further unknowns; with unknown rates the search ignores dropout.
Recovers: images, labels (exact for one example, with and without dropout), and dropout masks of known rates.
Fails: where dlg fails: ReLU, large batches, trained models.
Source: Zhao, Mopuri, Bilen 2020, arXiv 2001.02610.
"""

from __future__ import annotations

from typing import final

from attacks.gradient_matching._lbfgs import LbfgsAttack, LbfgsConfig
from fedsim.core.registry import attack


@final
@attack(
    "idlg",
    summary="label from the gradient, then the image as in DLG (iDLG)",
    tier="baseline",
    paper="2001.02610",
    fidelity="variant",
    deviates="dropout masks of known rates are unknowns too; batches are allowed",
    paper_steps=(
        ("label from the last layer's gradient", "attacks.core.labels.label_of_one"),
        ("search for the image alone", "attacks.gradient_matching._lbfgs.LbfgsAttack.run_search"),
    ),
)
class Idlg(LbfgsAttack[LbfgsConfig]):
    """Searches images under granted or inferred labels."""
