"""Tries to have secure noise repeat itself: fork, resume, threads, two messages of a run, deepcopy, pickling."""

import copy
import os
import pickle
import threading

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from opacus.optimizers import DPOptimizer

from fedsim.federation.mods import as_mod
from fedsim.privacy.discrete_noise import add_discrete
from fedsim.privacy.secure_noise import normal
from fedsim.privacy.secure_optimizer import secure
from tests.guard.guarded import Guarded, message

START = {"w": torch.zeros(30, 40), "b": torch.zeros(7)}


@pytest.fixture(autouse=True)
def _in_a_run(monkeypatch):
    """Flower makes messages only in a process that has a run."""
    for identity in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(f"flwr.supercore.task_identity.TaskIdentity.{identity}", 1)


def bits(tensor):
    return tensor.numpy().tobytes()


def add_normal(tensor, deviation):
    return tensor + deviation * normal(tensor)


def all_differ(drawn):
    return len(set(drawn)) == len(drawn) and len({value[:8] for value in drawn}) == len(drawn)


def sent(mod, context):
    content = RecordDict({"arrays": ArrayRecord(START), "config": ConfigRecord({})})
    message = Message(content, dst_node_id=7, message_type="train")
    reply = mod(message, context, lambda got, _: Message(RecordDict({"arrays": got.content["arrays"]}), reply_to=got))
    arrays = reply.content.array_records["arrays"].to_torch_state_dict()
    return [bits(arrays["w"]), bits(arrays["b"])]


def test_two_messages_of_a_run_and_a_message_that_is_answered_again_get_new_noise():
    mod, context = as_mod("local-dp", noise_multiplier=1.0), Context(1, 7, {}, RecordDict(), {})
    resumed = copy.deepcopy(context)  # as after a crash: the same run, node and number of the call
    drawn = [*sent(mod, context), *sent(mod, context), *sent(mod, resumed)]
    assert all_differ(drawn)


def test_a_copy_of_the_mod_draws_noise_of_its_own():
    mod = as_mod("local-dp", noise_multiplier=1.0)
    twins = [mod, copy.deepcopy(mod), copy.copy(mod)]
    assert all_differ([value for twin in twins for value in sent(twin, Context(1, 7, {}, RecordDict(), {}))])


def test_seeds_of_the_host_do_not_fix_the_noise_of_a_mod():
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        drawn += sent(as_mod("local-dp", noise_multiplier=1.0), Context(1, 7, {}, RecordDict(), {}))
    assert all_differ(drawn)


def test_a_mod_that_was_pickled_draws_noise_of_its_own():
    data = pickle.dumps(as_mod("local-dp", noise_multiplier=1.0))
    twins = [pickle.loads(data) for _ in range(3)]
    assert all_differ([value for twin in twins for value in sent(twin, Context(1, 7, {}, RecordDict(), {}))])


def optimizer(generator=None, shape=(30, 40)):
    weights = torch.nn.Parameter(torch.zeros(shape))
    private = DPOptimizer(
        torch.optim.SGD([weights], lr=0.1),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_batch_size=4,
        generator=generator,
    )
    return secure(private)


def noise_of(secured):
    (weights,) = secured.params
    weights.summed_grad = torch.zeros_like(weights)
    secured.add_noise()
    return bits(weights.grad)


def test_optimizers_whose_generators_are_copies_draw_different_noise():
    generator = torch.Generator().manual_seed(3)
    twins = [optimizer(generator), optimizer(copy.deepcopy(generator)), optimizer(copy.deepcopy(generator))]
    assert all_differ([noise_of(twin) for twin in twins])


def test_a_resumed_training_draws_new_noise_though_all_states_are_those_of_the_checkpoint():
    secured = optimizer(torch.Generator().manual_seed(3))
    checkpoint = secured.state_dict(), secured.generator.get_state(), torch.get_rng_state(), np.random.get_state()
    drawn = [noise_of(secured)]
    for _ in range(3):
        resumed = optimizer(torch.Generator())
        resumed.load_state_dict(checkpoint[0])
        resumed.generator.set_state(checkpoint[1])
        torch.set_rng_state(checkpoint[2])
        np.random.set_state(checkpoint[3])
        drawn.append(noise_of(resumed))
    assert all_differ(drawn)


def test_the_noise_of_two_steps_of_an_optimizer_differs():
    secured = optimizer()
    assert all_differ([noise_of(secured) for _ in range(5)])


def test_a_deep_copy_of_an_optimizer_draws_noise_of_its_own():
    secured = optimizer(torch.Generator().manual_seed(3))
    assert all_differ([noise_of(twin) for twin in (secured, copy.deepcopy(secured), copy.deepcopy(secured))])


def noise_of_mod(mod):
    return sent(mod, Context(1, 7, {}, RecordDict(), {}))[1]


# A source and its draw of a few bytes: both functions, the mod of a Flower app and an optimizer of Opacus.
SOURCES = {
    "Gaussian": (lambda: None, lambda _: bits(add_normal(torch.zeros(7), 1.0))),
    "discrete": (lambda: None, lambda _: bits(add_discrete(torch.zeros(7), 1.0))),
    "mod": (lambda: as_mod("local-dp", noise_multiplier=1.0), noise_of_mod),
    "optimizer": (lambda: optimizer(torch.Generator().manual_seed(3), shape=(7,)), noise_of),
}


@pytest.mark.parametrize("source", SOURCES)
def test_children_of_a_fork_and_their_parent_draw_different_noise(source):
    make, draw = SOURCES[source]
    made = make()
    draw(made)  # any state exists before the fork
    drawn = []
    for _ in range(3):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, draw(made))
            os._exit(0)
        drawn.append(os.read(read, 4096))
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)
    drawn.append(draw(made))
    assert all(len(value) == 28 for value in drawn)
    assert all_differ(drawn)


@pytest.mark.parametrize("source", ["Gaussian", "discrete", "optimizer"])
def test_threads_that_start_together_draw_different_noise(source):
    """An optimizer is not made for several threads, so each thread has a copy of it.

    A mod reads arrays of NumPy, which parses headers as Python: in CPython 3.11 threads may fail to parse at once.
    """
    make, draw = SOURCES[source]
    made, drawn, barrier = make(), [], threading.Barrier(8)

    def draw_often():
        mine = copy.deepcopy(made) if source == "optimizer" else made
        barrier.wait()
        drawn.extend(draw(mine) for _ in range(20))

    threads = [threading.Thread(target=draw_often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drawn) == 160
    assert all_differ(drawn)


def test_two_messages_to_a_guard_and_a_message_after_its_restart_get_new_noise(tmp_path):
    guarded = Guarded(tmp_path)
    replies = [guarded.answer(message(run=run)) for run in (5, 5, 6)]
    replies.append(Guarded(tmp_path).answer(message(run=5)))
    drawn = [reply.reply.content.array_records["weights"].to_torch_state_dict() for reply in replies]
    assert all_differ([bits(tensor) for arrays in drawn for tensor in arrays.values()])
