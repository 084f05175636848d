"""Simulated client of a search: model, loss, dropout and the compared part of its gradient."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor, nn

from attacks.core.defense_facts import PLAIN, Wire, wire_of
from attacks.core.layers import run
from attacks.core.matching.unknowns import NOTHING, Values
from fedsim.core.nets.masks import disable_dropout, inject_masks, rescaling_factor
from fedsim.core.types import DropoutSite, Loss, Masks, Observation


@dataclass(frozen=True)
class SimulatedClient:
    """Simulated client that is shared by all victims of a computation.

    Attributes:
        model: the search's own copy, with the weights that the victims received, in the mode of the search.
        names: trained parameters whose gradients are compared.
        sites: dropout sites of one row.
        wire: transformation of gradients by known defenses.
    """

    model: nn.Module
    loss: Loss
    names: tuple[str, ...]
    sites: tuple[DropoutSite, ...]
    wire: Wire = PLAIN

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """The compared parameters, detached."""
        return {name: self.model.get_parameter(name).detach() for name in self.names}

    def outputs(
        self, inputs: Tensor, masks: Masks, weights: Mapping[str, Tensor], variables: Values = NOTHING
    ) -> Tensor:
        """Return the model's outputs (B, K) for one row, with some of its weights replaced.

        Subclasses with unknowns besides dropout masks in a forward pass override it, or `apply_masks`.
        """
        with self.apply_masks(masks, variables):
            return run(self.model, inputs, weights)

    def apply_masks(self, masks: Masks, variables: Values = NOTHING) -> AbstractContextManager[None]:
        """Return the context of a forward pass with these masks; without dropout if `masks` is empty.

        The rescaling of kept entries is multiplied into the masks: two operations per iteration instead of five.
        """
        if not masks:
            return disable_dropout()
        scaled = tuple(mask * rescaling_factor(site) for mask, site in zip(masks, self.sites, strict=True))
        return inject_masks(self._unscaled_sites, scaled)

    @cached_property
    def _unscaled_sites(self) -> tuple[DropoutSite, ...]:
        return tuple(replace(site, rate=0.0) for site in self.sites)


def simulated_client(
    observation: Observation, sites: tuple[DropoutSite, ...], batch_statistics: bool
) -> SimulatedClient:
    """Return the simulated client, with a copy of the model; the observed model is not changed.

    Its activations work out of place: the outputs of the layers in front of them are needed unchanged.
    """
    model = observation.working_copy("train" if batch_statistics else "eval").requires_grad_(False)
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    names = tuple(name for name, _ in model.named_parameters() if name in observation.update.tensors)
    return SimulatedClient(model, observation.loss, names, sites, wire_of(observation))
