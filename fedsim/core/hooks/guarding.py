"""What an attack may not leave behind or draw from while it searches."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.masks.calls import DropoutCalls
from fedsim.core.past.stack import only_watches
from fedsim.core.types import Observation, OnStep, Step


class Draws:
    """Watches torch's global generator, from which nothing may be drawn but by a model that is random in itself.

    Dropout is no such randomness: an attack says which masks its forward passes use.
    """

    def __init__(self) -> None:
        self._before = torch.random.get_rng_state()
        self._expected = self._before.numpy().tobytes()
        self._open, _ = seeding.count_isolated()

    def check(self) -> None:
        """See whether something was drawn since the last time.

        Raises:
            FedsimError: it was; the generator is as it was at first.
        """
        state = self._state()
        if state is None or state == self._expected:
            return
        torch.random.set_rng_state(self._before)
        raise FedsimError(
            "the attack drew from torch's global generator, so that its seed does not tell what it finds. Pass "
            "generator=generator to torch.rand and its like; run the model inside inject_masks, keep_masks or "
            "without_dropout of fedsim.core.masks; and put what takes no generator, as a new layer, into "
            "fedsim.core.seeding.isolate_randomness."
        )

    def watched(self, on_step: OnStep) -> OnStep:
        """Return a callback that checks before each step, and lets whoever is shown the step draw as he likes."""

        def step(shown: Step) -> None:
            self.check()
            on_step(shown)
            self._forgive()

        return step

    def left(self, *, may_drop: bool) -> None:
        """A forward pass ended: what was drawn in it is the model's, unless its dropout drew."""
        is_given = any(isinstance(mode, DropoutCalls) for mode in _get_current_function_mode_stack())
        if is_given or not may_drop:
            self._forgive()
        self.check()

    def _forgive(self) -> None:
        self._expected = self._state() or self._expected

    def _state(self) -> bytes | None:
        """The generator's state; None inside a block of `contained`, be it another thread's.

        Read outside of the transforms of `torch.func`, which hand out tensors without storage.
        """
        before = seeding.count_isolated()
        with torch._C._DisableFuncTorch():
            state = torch.random.get_rng_state().numpy().tobytes()
        is_outside = before == seeding.count_isolated() and before[0] == self._open
        return state if is_outside else None


@contextmanager
def guard(observations: Sequence[Observation]) -> Generator[Draws]:
    """Keep `.grad` off the observed models, and see that a search draws from its own generator.

    Raises:
        FedsimError: the search drew from torch's global generator.
    """
    draws = Draws()
    models = {id(observation.model): (observation.model, bool(observation.sites)) for observation in observations}
    with ExitStack() as stack:
        for model, may_drop in models.values():
            before, behind = (lambda *_: draws.check()), (lambda *_, may=may_drop: draws.left(may_drop=may))
            stack.callback(model.register_forward_pre_hook(only_watches(before)).remove)
            stack.callback(model.register_forward_hook(only_watches(behind)).remove)
            for parameter in model.parameters():
                _keep_grad(parameter, stack)
        yield draws
        draws.check()


def _keep_grad(parameter: nn.Parameter, stack: ExitStack) -> None:
    """Have whatever is accumulated in a parameter's `.grad` dropped, and what was there before put back in the end."""
    stack.callback(setattr, parameter, "grad", parameter.grad)
    parameter.grad = None
    if parameter.requires_grad and parameter.is_leaf:
        stack.callback(parameter.register_post_accumulate_grad_hook(_drop_grad).remove)


def _drop_grad(parameter: Tensor) -> None:
    parameter.grad = None
