"""Guards around an attack's search: no draws from torch's global generator, no gradients left in `.grad`."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.foreign import pytorch
from fedsim.core.nets.kv_cache.stack import only_watches
from fedsim.core.nets.masks.calls import DropoutCalls
from fedsim.core.types import Observation, OnStep, Step


class Draws:
    """Detects draws from torch's global generator, which only a model with randomness of its own may make.

    Dropout does not count as such randomness: an attack must choose the masks of its forward passes.
    """

    def __init__(self) -> None:
        self._before = torch.random.get_rng_state()
        self._expected = self._before.numpy().tobytes()
        self._open, _ = seeding.count_isolated()

    def check(self) -> None:
        """Check that nothing was drawn since the last call.

        Raises:
            FedsimError: something was drawn; the generator is reset to its initial state.
        """
        state = self._state()
        if state is None or state == self._expected:
            return
        torch.random.set_rng_state(self._before)
        raise FedsimError(
            "the attack drew from torch's global generator, so its seed does not determine its "
            "result. Pass generator=generator to torch.rand and its like; run the model inside "
            "inject_masks, keep_masks or without_dropout of fedsim.core.nets.masks; and run "
            "code without a generator argument, such as a new layer, inside "
            "fedsim.core.seeding.isolate_randomness."
        )

    def wrap_callback(self, on_step: OnStep) -> OnStep:
        """Return a callback that checks before each step, and ignores draws of the wrapped callback."""

        def step(shown: Step) -> None:
            self.check()
            on_step(shown)
            self._forgive()

        return step

    def finish_forward(self, *, may_drop: bool) -> None:
        """Handle the end of a forward pass: accept draws of the model, unless its dropout made them."""
        is_given = any(isinstance(mode, DropoutCalls) for mode in pytorch.function_modes())
        if is_given or not may_drop:
            self._forgive()
        self.check()

    def _forgive(self) -> None:
        self._expected = self._state() or self._expected

    def _state(self) -> bytes | None:
        """Return the generator's state; None inside `isolate_randomness`, also of another thread.

        It is read outside of `torch.func` transforms, which return tensors without storage.
        """
        before = seeding.count_isolated()
        with pytorch.outside_transforms():
            state = torch.random.get_rng_state().numpy().tobytes()
        is_outside = before == seeding.count_isolated() and before[0] == self._open
        return state if is_outside else None


@contextmanager
def guard(observations: Sequence[Observation]) -> Generator[Draws]:
    """Keep `.grad` of the observed models empty, and check that a search draws from its own generator.

    Raises:
        FedsimError: the search drew from torch's global generator.
    """
    draws = Draws()
    models = {id(observation.model): (observation.model, bool(observation.sites)) for observation in observations}
    with ExitStack() as stack:
        for model, may_drop in models.values():
            before, after_call = (
                (lambda *_: draws.check()),
                (lambda *_, may=may_drop: draws.finish_forward(may_drop=may)),
            )
            stack.callback(model.register_forward_pre_hook(only_watches(before)).remove)
            stack.callback(model.register_forward_hook(only_watches(after_call)).remove)
            for parameter in model.parameters():
                _keep_grad(parameter, stack)
        yield draws
        draws.check()


def _keep_grad(parameter: nn.Parameter, stack: ExitStack) -> None:
    """Drop gradients accumulated in a parameter's `.grad`, and restore the previous value at exit."""
    stack.callback(setattr, parameter, "grad", parameter.grad)
    parameter.grad = None
    if parameter.requires_grad and parameter.is_leaf:
        stack.callback(parameter.register_post_accumulate_grad_hook(_drop_grad).remove)


def _drop_grad(parameter: Tensor) -> None:
    parameter.grad = None
