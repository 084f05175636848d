"""Source inference: the inferred site of an example is the site with the lowest loss of its own model.

Paper: Hu et al. 2021, arXiv 2109.05659. Sites with different distributions are distinguishable without memorised
examples too, so a share above chance does not prove memorisation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, tee

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.audit.loading import load, load_subject
from fedsim.audit.subject import CheckedSubject, check_subject
from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch
from fedsim.metrics.statistics import wilson
from fedsim.questions.sources import source_told
from fedsim.record import Finding
from fedsim.release.finished import check_sides, each_once
from fedsim.release.permutation import permutation_test, with_control

_FEWEST = 2


@dataclass(frozen=True)
class Site:
    """A site's own model in evaluation mode, and its training examples."""

    subject: CheckedSubject
    model: nn.Module
    examples: Batch


def read(targets: Mapping[str, str]) -> dict[str, Site]:
    """Return the sites by name.

    Raises:
        FedsimError: only a single site is named, two sites share a model or an example, or a site has too few examples.
    """
    if len(targets) == 1:
        raise FedsimError(f"--sites names '{next(iter(targets))}' alone, expected at least {_FEWEST}, as in a=..,b=..")
    sites = {name: _site(target) for name, target in targets.items()}
    check_sides({f"examples of '{name}'": site.examples for name, site in sites.items()})
    for first, second in combinations(sites, 2):
        if _are_alike(sites[first].model, sites[second].model):
            raise FedsimError(
                f"--sites: '{first}' and '{second}' return the same weights, expected each site's own model: load its "
                "weights in the function."
            )
    return sites


def find(sites: Mapping[str, Site], seed: int) -> Iterator[Finding]:
    """Yield the share of examples with a correctly inferred site, in equal numbers per site, and its control.

    Yields nothing without sites.
    """
    if not sites:
        return
    n = min(len(site.examples) for site in sites.values())
    source = seeding.generator(seed, "release sites")
    samples = [
        site.examples.select(torch.randperm(len(site.examples), generator=source)[:n]) for site in sites.values()
    ]
    losses = [torch.stack([_losses(site, batch) for site in sites.values()], dim=1) for batch in samples]
    guesses = torch.cat(losses).argmin(1).numpy()
    labels = np.repeat(np.arange(len(sites)), n)
    finding = Finding(
        question="sources",
        label="loss under each site's model",
        scope={"sites": len(sites), "of each": n},
        metric=source_told.__name__,
        value=wilson(int((guesses == labels).sum()), len(labels)),
        chance_level=1 / len(sites),
    )
    shuffles = np.random.default_rng(seeding.derive(seed, "release sites"))
    luck = permutation_test(lambda order: float((guesses == order).mean()), labels, shuffles)
    yield from with_control(finding, luck.p, luck.value)


def _site(target: str) -> Site:
    subject = load_subject(load(target), target)
    if subject.loader is None:
        raise FedsimError(f"--sites: '{target}' returned no loader, expected (model, loss, loader) of the site.")
    loader, second_loader = tee(subject.loader)  # all of them are the site's: none is left for tests
    known = check_subject(replace(subject, loader=loader, test=second_loader, defenses=()), target)
    return Site(known, known.new_model().eval(), each_once(known.dataset.train))


def _are_alike(first: nn.Module, second: nn.Module) -> bool:
    return all(map(torch.equal, first.parameters(), second.parameters()))


@torch.no_grad()
def _losses(site: Site, batch: Batch) -> Tensor:
    """Return the loss of each example under a site's model, shape (N,)."""
    task = site.subject.task
    return torch.cat([task.losses(*task.answer(site.model, part, {})) for part in batch.split(task.eval_batch_size)])
