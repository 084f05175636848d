"""Parts of a client's model or training, and the base of what is run with a trained model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable
from fedsim.core.hooks.contexts import HookContext, PublicFederation
from fedsim.core.types import Batch, Modality, PublicKnowledge, Reconstruction, Tensors, Truth
from fedsim.core.types.configured import ANYTHING, ConfigT, Configured
from fedsim.core.visual import VisualReducer, VisualShape, reads_images, visual_passes
from fedsim.core.visual.patches import kept_patches, nearest_guesses, patch_errors

_READ = 10 ** (-20 / 10)  # mean squared error of a patch at 20 dB, of values in [0, 1]

Hook = Literal[
    "augment",
    "layer",
    "loss",
    "optimizer",
    "adapter",
    "bottleneck",
    "token_reducer",
    "decoder",
    "sampler",
    "unmasker",
    "probe",
    "mitigation",
    "unlearning",
]


class Component(Configured[ConfigT]):
    """What every component of a client's model or training may say about itself.

    Nothing runs a component that derives from this class alone: its kind is one of those in `KINDS_OF_COMPONENTS`.
    """

    hook: ClassVar[Hook]

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Return why it does not fit this federation or model, as the end of a sentence, or None when it does.

        Args:
            federation: the federation.
            model: the clients' model with its first weights, with every component and defense in it.
        """
        return None

    def public_view(self) -> PublicKnowledge | None:
        """Return what an attacker who knows the components knows, or None when the model shows all there is."""
        return None

    def scores(self, model: nn.Module, truth: Truth, guess: Reconstruction) -> Mapping[str, float]:
        """Compare what an attacker `found` of this component with the truth: shares in [0, 1], by a name for people.

        Args:
            model: the clients' model with the weights that the update answers, in training mode; it may be changed.
            truth: the private side of the update.
            guess: the attacker's.
        """
        return {}


class ModelComponent(Component[ConfigT]):
    """Changes the model once, before training. Derive from `Layer`, `Adapter`, `Bottleneck` or `TokenReducer`.

    A component of another hook that changes the model too derives from this class and from that of its hook.
    """

    @abstractmethod
    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return the model to train; it may be the same object, changed.

        Raises:
            NotApplicable: the model has no place for this component.
        """

    def initialise(self, model: nn.Module, public: Tensor, generator: torch.Generator) -> None:
        """Set first values that depend on data, in place, once every component and defense is in the model.

        Args:
            model: in training mode.
            public: examples of the server's own, without labels, normalised, shape (N, *spec.shape): the test set, or
                none at all where that is the training set.
            generator: the same in every process of a run.

        Raises:
            NotApplicable: it needs examples, or others than these.
        """

    def step_factors(self, parameters: Tensors) -> Tensors:
        """Return by parameter the factor of the optimizer's change of it; it is 1 for those left out.

        Args:
            parameters: the trained ones before a local step; of several clients at once, with one dimension more in
                front.
        """
        return {}

    @property
    def batch_reader(self) -> str | None:
        """What of it takes a batch as a whole, by a name for people, so that examples cannot be told apart; or None."""
        return None

    @final
    @property
    def initialises(self) -> bool:
        """Whether it sets first values from data."""
        return type(self).initialise is not ModelComponent.initialise


class Layer(ModelComponent[ConfigT]):
    """Hook layer: changes, adds or freezes layers."""

    hook: ClassVar[Hook] = "layer"


class Adapter(ModelComponent[ConfigT]):
    """Hook adapter: trains small parts beside what is frozen."""

    hook: ClassVar[Hook] = "adapter"


class Bottleneck(ModelComponent[ConfigT]):
    """Hook bottleneck: activations pass through codes or keys."""

    hook: ClassVar[Hook] = "bottleneck"


class TokenReducer(ModelComponent[ConfigT]):
    """Hook token_reducer: leaves tokens out or merges them inside a forward pass.

    The modules that do so derive from `fedsim.core.kept_tokens.Reducing` and report how many tokens they keep, so that
    traces of generations show it.
    """

    hook: ClassVar[Hook] = "token_reducer"


class VisualTokenReducer(TokenReducer[ConfigT]):
    """A reducer of the visual tokens of a model that reads images and text. It may also be made of trained parts."""

    @abstractmethod
    def reducer(self, visual: VisualShape, generator: torch.Generator) -> VisualReducer:
        """Return the module that acts between the model's layers.

        Args:
            visual: what the model says of itself.
            generator: for first values.
        """

    def does_not_fit(self, visual: VisualShape) -> str | None:
        """Return why the settings do not fit a model, as the end of a sentence, or None when they do."""
        return None

    @final
    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return the model with the reducer.

        Raises:
            NotApplicable: it has no visual tokens or another reducer, or the settings do not fit it.
        """
        reader = reads_images(model, self.name)
        if len(reader.reducers):
            raise NotApplicable(
                f"component '{self.name}': the model has a token reducer already, and each chooses as if the image "
                "were whole. Leave one of the two out."
            )
        why = self.does_not_fit(reader.visual)
        if why is not None:
            raise NotApplicable(f"component '{self.name}': {why}.")
        reader.reducers.append(self.reducer(reader.visual, generator))
        return model

    def scores(self, model: nn.Module, truth: Truth, guess: Reconstruction) -> Mapping[str, float]:
        """Say how much an attacker read of the patches that reached the last layer, and of the others."""
        reader = reads_images(model, self.name)
        if truth.batches[1:] or guess.inputs.shape[1:] != truth.batches[0].inputs.shape[1:] or not len(guess.inputs):
            return {}
        (batch,) = truth.batches
        with torch.no_grad(), visual_passes(model.eval()) as passes:
            model(batch.inputs, **batch.given)
        guesses = nearest_guesses(guess.inputs.detach(), batch.inputs)
        is_read = (patch_errors(guesses, batch.inputs, reader.visual.grid) <= _READ).double()
        kept = kept_patches(passes[0], reader.visual.patches)
        shares = {"kept": is_read[kept], "dropped": is_read[~kept]}
        return {
            f"share of {name} patches read to 20 dB": float(share.mean())
            for name, share in shares.items()
            if len(share)
        }


class Augmentation(Component[ConfigT]):
    """Hook augment: changes each batch before the forward pass."""

    hook: ClassVar[Hook] = "augment"

    @abstractmethod
    def augment(self, batch: Batch, here: HookContext) -> Batch:
        """Return a batch of the same input shape and length; labels may become probabilities of shape (B, K)."""


class Objective(Component[ConfigT]):
    """Hook loss: what a client minimises in place of the cross-entropy. A model may be prepared by the same class."""

    hook: ClassVar[Hook] = "loss"

    @abstractmethod
    def objective(self, outputs: Tensor, labels: Tensor, round_: int) -> Tensor:
        """Return the loss of a batch, a scalar.

        Args:
            outputs: what the model returns in training.
            labels: classes (B,), or probabilities (B, K).
            round_: from 1, for what changes in the course of a training.
        """


class LossTerm(Component[ConfigT]):
    """Hook loss: a term added to the client's loss."""

    hook: ClassVar[Hook] = "loss"

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, outputs: Tensor, here: HookContext) -> Tensor:
        """Return a scalar."""


class Optimizer(Component[ConfigT]):
    """Hook optimizer: turns gradients into weights, for one local training."""

    hook: ClassVar[Hook] = "optimizer"
    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    @property
    @abstractmethod
    def learning_rate(self) -> float:
        """Step size, in units of weight per gradient."""

    @abstractmethod
    def step(self, parameters: Tensors, gradient: Tensors, state: dict[str, Tensor]) -> None:
        """Change `parameters` in place. `state` starts empty in every local training and is the optimizer's own."""

    @final
    @torch.no_grad()
    def scaled_step(self, factors: Tensors, parameters: Tensors, gradient: Tensors, state: dict[str, Tensor]) -> None:
        """Take a step, and multiply by a factor what it changed in each parameter that has one."""
        before = {name: parameters[name].clone() for name in factors}
        self.step(parameters, gradient, state)
        for name, factor in factors.items():
            parameters[name].copy_(torch.lerp(before[name], parameters[name], factor))
