"""Base classes of components: parts of a client's model or training, and methods that use a trained model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable
from fedsim.core.hooks.contexts import HookContext, PublicFederation
from fedsim.core.nets.visual import VisualReducer, VisualShape, reads_images, visual_passes
from fedsim.core.nets.visual.patches import kept_patches, nearest_guesses, patch_errors
from fedsim.core.types import Batch, MethodDescription, Modality, Reconstruction, Tensors, Truth
from fedsim.core.types.configured import ANYTHING, ConfigT, ConfiguredMethod

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


class Component(ConfiguredMethod[ConfigT]):
    """Base class of all components.

    Only subclasses of a class in `KINDS_OF_COMPONENTS` are run.
    """

    hook: ClassVar[Hook]

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Return why the component does not fit this federation or model, as the end of a sentence; None if it fits.

        Args:
            federation: the federation.
            model: the clients' model with initial weights and all components and defenses.
        """
        return None

    def public_description(self) -> MethodDescription | None:
        """Return what an attacker that knows the component's settings knows, or None if the model shows it all."""
        return None

    def scores(self, model: nn.Module, truth: Truth, guess: Reconstruction) -> Mapping[str, float]:
        """Compare an attacker's inferences about this component (`guess.extras`) with the truth; return scores by name.

        Args:
            model: the clients' model with the weights at which the update was computed, in training mode; it may be
                changed.
            truth: ground truth of the update.
            guess: the attacker's guess.
        """
        return {}


class ModelComponent(Component[ConfigT]):
    """Changes the model once, before training. Derive from `Layer`, `Adapter`, `Bottleneck` or `TokenReducer`.

    A component of another hook that also changes the model derives from this class and from the class of its hook.
    """

    @abstractmethod
    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return the model to train; it may be the same object, changed.

        Raises:
            NotApplicable: the model does not support this component.
        """

    def initialise(self, model: nn.Module, public: Tensor, generator: torch.Generator) -> None:
        """Set data-dependent initial values in place, after all components and defenses are in the model.

        Args:
            model: in training mode.
            public: the server's own examples, without labels, normalised, shape (N, *spec.shape): the test set; empty
                if the test set is the training set.
            generator: the same in all processes of a run.

        Raises:
            NotApplicable: it needs examples, or other examples.
        """

    @property
    def validation(self) -> int:
        """Number of the server's test examples on which `after_round` acts; they are left out of the test. 0: none."""
        return 0

    def after_round(self, model: nn.Module, round_: int, validation: Batch) -> None:
        """Set buffers of the global model that the server decides after each round; the next round trains with them.

        Args:
            model: the global model in evaluation mode, without gradients.
            round_: number of the finished round, from 1.
            validation: validation examples with labels; empty if no component asks for any.
        """

    def step_factors(self, parameters: Tensors) -> Tensors:
        """Return factors of the optimizer's step by parameter; missing parameters have factor 1.

        Args:
            parameters: trained parameters before a local step; for clients trained together, with a leading client
                dimension.
        """
        return {}

    @property
    def batch_reader(self) -> str | None:
        """Readable name of the part that uses a batch as a whole, so examples are not separable; None if absent."""
        return None

    @final
    @property
    def initialises(self) -> bool:
        """Whether it sets initial values from data."""
        return type(self).initialise is not ModelComponent.initialise

    @final
    @property
    def sets_buffers(self) -> bool:
        """Whether the server sets buffers of it after a round."""
        return type(self).after_round is not ModelComponent.after_round


class Layer(ModelComponent[ConfigT]):
    """Hook layer: changes, adds or freezes layers."""

    hook: ClassVar[Hook] = "layer"


class Adapter(ModelComponent[ConfigT]):
    """Hook adapter: trains small modules next to frozen layers."""

    hook: ClassVar[Hook] = "adapter"


class Bottleneck(ModelComponent[ConfigT]):
    """Hook bottleneck: replaces activations by codes or values."""

    hook: ClassVar[Hook] = "bottleneck"


class TokenReducer(ModelComponent[ConfigT]):
    """Hook token_reducer: drops or merges tokens inside a forward pass.

    Its modules derive from `fedsim.core.nets.kept_tokens.Reducing` and report the number of kept tokens, which appears
    in traces of generations.
    """

    hook: ClassVar[Hook] = "token_reducer"


class VisualTokenReducer(TokenReducer[ConfigT]):
    """A reducer of the visual tokens of a vision-language model. It may have trained parts."""

    @abstractmethod
    def reducer(self, visual: VisualShape, generator: torch.Generator) -> VisualReducer:
        """Return the module that acts between the model's layers.

        Args:
            visual: description of the model's visual tokens.
            generator: random source of initial values.
        """

    def does_not_fit(self, visual: VisualShape) -> str | None:
        """Return why the settings do not fit a model, as the end of a sentence; None if they fit."""
        return None

    @final
    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return the model with the reducer.

        Raises:
            NotApplicable: the model has no visual tokens or another reducer, or the settings do not fit it.
        """
        reader = reads_images(model, self.name)
        if len(reader.reducers):
            raise NotApplicable(
                f"component '{self.name}': the model has a token reducer already, and each "
                "assumes the whole image. Remove either."
            )
        why = self.does_not_fit(reader.visual)
        if why is not None:
            raise NotApplicable(f"component '{self.name}': {why}.")
        reader.reducers.append(self.reducer(reader.visual, generator))
        return model

    def scores(self, model: nn.Module, truth: Truth, guess: Reconstruction) -> Mapping[str, float]:
        """Return the attack success rates of patches that reached the last layer, and of dropped patches."""
        reader = reads_images(model, self.name)
        if truth.batches[1:] or guess.inputs.shape[1:] != truth.batches[0].inputs.shape[1:] or not len(guess.inputs):
            return {}
        (batch,) = truth.batches
        with torch.no_grad(), visual_passes(model.eval()) as passes:
            model(batch.inputs, **batch.extra_inputs)
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
    def augment(self, batch: Batch, context: HookContext) -> Batch:
        """Return a batch of the same input shape and length; labels may become probabilities of shape (B, K)."""


class Objective(Component[ConfigT]):
    """Hook loss: a training objective that replaces cross-entropy. The same class may also prepare the model."""

    hook: ClassVar[Hook] = "loss"

    @abstractmethod
    def objective(self, outputs: Tensor, labels: Tensor, round_: int) -> Tensor:
        """Return the loss of a batch, a scalar.

        Args:
            outputs: the model's training outputs.
            labels: classes (B,), or probabilities (B, K).
            round_: number of the round from 1, for schedules.
        """


class LossTerm(Component[ConfigT]):
    """Hook loss: a term added to the client's loss."""

    hook: ClassVar[Hook] = "loss"

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, outputs: Tensor, context: HookContext) -> Tensor:
        """Return a scalar."""


class Optimizer(Component[ConfigT]):
    """Hook optimizer: computes weight steps from gradients, for a local training."""

    hook: ClassVar[Hook] = "optimizer"
    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    @property
    @abstractmethod
    def learning_rate(self) -> float:
        """Step size, in units of weight per gradient."""

    @abstractmethod
    def step(self, parameters: Tensors, gradient: Tensors, state: dict[str, Tensor]) -> None:
        """Change `parameters` in place.

        `state` belongs to the optimizer and is empty at the start of each local training.
        """

    @final
    @torch.no_grad()
    def scaled_step(self, factors: Tensors, parameters: Tensors, gradient: Tensors, state: dict[str, Tensor]) -> None:
        """Take a step, and scale the change of each parameter that has a factor."""
        before = {name: parameters[name].clone() for name in factors}
        self.step(parameters, gradient, state)
        for name, factor in factors.items():
            parameters[name].copy_(torch.lerp(before[name], parameters[name], factor))
