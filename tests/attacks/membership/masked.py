"""A model of masked places whose odds are written out: a table of letters, sharper the fewer places are masked."""

import torch
from torch import Tensor, nn

from fedsim.core.nets.losses import IGNORED
from fedsim.core.types import Batch, Tensors
from fedsim.questions.membership.types import MembershipObservation, Shadow, ShadowPlan
from fedsim.tasks.masked_diffusion import MaskedDiffusion, MaskedDiffusionConfig

LETTERS, LENGTH, COUNT = 5, 6, 7


class Table(nn.Module):
    """Scores a place by a row for each place, divided by one more than the number of masked places."""

    mask_token = LETTERS

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(LENGTH, LETTERS))

    def forward(self, tokens: Tensor, masked: Tensor | None = None) -> Tensor:
        count = torch.zeros(len(tokens)) if masked is None else masked.sum(1)
        return self.table[None] / (1 + count)[:, None, None]


def weights(seed: int) -> Tensors:
    return {"table": torch.randn(LENGTH, LETTERS, generator=torch.Generator().manual_seed(seed))}


def observed(plan: ShadowPlan | None = None) -> MembershipObservation:
    """Return an observation of texts, the first of which has a prompt of two letters."""
    texts = torch.randint(LETTERS, (COUNT, LENGTH), generator=torch.Generator().manual_seed(0))
    labels = texts.clone()
    labels[0, :2] = IGNORED
    both, task, none = Batch(texts, labels), MaskedDiffusion(MaskedDiffusionConfig()), torch.zeros(COUNT).bool()
    shadows = {} if plan is None else {plan: tuple(Shadow(weights(10 + k), none, none) for k in range(plan.count))}
    return MembershipObservation(
        both, both, Table().eval(), task.loss, ((1, weights(1)),), (), lambda _b, _g: {}, shadows, task=task
    )


def log_odds(own: Tensors, masked: Tensor) -> Tensor:
    """Return the log of the odds of each letter at each place of one text, given its masked places (T,)."""
    return (own["table"].double() / (1 + int(masked.sum()))).log_softmax(-1)
