"""Presets of breaching 0.1.2, which a task names as its attack, with their own settings but for the iterations.

It runs in an environment of its own, and gets this project's process settings, which make it faster.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

from fedsim.core import process

process.prepare()

import warnings  # noqa: E402
from typing import Any  # noqa: E402

import breaching  # noqa: E402
import torch  # noqa: E402

from benchmarks.attack_peers._service import Run, Task, Watch, finish_run, serve  # noqa: E402
from fedsim.core import seeding  # noqa: E402
from fedsim.core.types import Observation  # noqa: E402


class _Facts(dict[str, Any]):
    """What breaching calls metadata: read by key and by attribute."""

    __getattr__ = dict.__getitem__


def answer(task: Task) -> Run:
    """Attack the one victim of a task."""
    (victim,) = task.victims()
    overrides = [f"optim.max_iterations={task.settings['max_iterations']}"]
    settings = breaching.get_attack_config(task.attack, overrides)
    payload, shared = _wire(victim.observation, knows_labels=not settings.attack_type.startswith("joint"))
    with seeding.isolate_randomness(seeding.derive(1, "attack", task.victim)):
        watch = Watch()
        attacker = breaching.attacks.prepare_attack(victim.observation.model, victim.observation.loss, settings)
        answer_of_peer, _ = attacker.reconstruct([payload], [shared], server_secrets={})
        return finish_run(victim, watch, answer_of_peer["data"])


def _wire(observation: Observation, *, knows_labels: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what breaching's server sent and what its user answered."""
    labels = observation.labels if knows_labels else None
    spec, parameters = observation.spec, dict(observation.model.named_parameters())
    about_data = _Facts(
        modality="vision", task="classification", shape=spec.shape, classes=spec.classes, mean=spec.mean, std=spec.std
    )
    about_user = _Facts(num_data_points=observation.batch_size, labels=labels, local_hyperparams=None, data_key="image")
    payload = {
        "parameters": [parameter.detach() for parameter in parameters.values()],
        "buffers": None,
        "metadata": about_data,
    }
    gradients = [observation.update.tensors[name].clone() for name in parameters]
    return payload, {"gradients": gradients, "buffers": None, "metadata": about_user}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    serve(answer)
