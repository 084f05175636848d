"""Runs that never happened, for the report to render."""

import numpy as np

from fedsim.core import registry
from fedsim.questions.attacks.question import finding_of
from fedsim.questions.base import Question, info_of
from fedsim.record import (
    ArmRecord,
    Environment,
    Failure,
    GuaranteeRecord,
    ItemScore,
    MaskScore,
    PartitionRecord,
    RoundRecord,
    RunRecord,
    VictimRecord,
)
from fedsim.record.store import RunFolder
from fedsim.scenario import AttackChoice, Scoring
from fedsim.tasks.core.images import label_values

ENVIRONMENT = Environment(
    command="fedsim run scenarios/dropout.toml",
    versions={"torch": "2.13.0", "numpy": "2.1.0"},
    python="3.11.7",
    platform="Linux 6.1 x86_64",
    processor="Example CPU",
    cores=2,
    torch_threads=1,
    git_commit="0123456789abcdef",
    git_dirty=True,
)


def scenario(**changes):
    return {
        "title": "Dropout",
        "description": "Does dropout hide the image?",
        "seed": 3,
        "model": {"name": "mlp", "checkpoint": None, "dropout": 0.5},
        "defenses": [],
        "components": [],
        "scoring": {"metric": "ssim", "threshold": 0.5, "confidence": 0.95, "resamples": 200},
        **changes,
    }


def item(index=0, *, psnr, ssim, label=1):
    values = {"mse": 10 ** (-psnr / 10), "mse_normalised": 0.5, "psnr": psnr, "ssim": ssim}
    return ItemScore(index=index, values=values, label=label, guessed_label=label)


def victim(client, scores, *, arrays="", objective=1e-6, **changes):
    settings = {
        "round": 1,
        "client": client,
        "scores": tuple(scores),
        "values": label_values(scores) if scores else {},
        "objective": objective,
        "objective_at_truth": 1e-7,
        "iterations": 300,
        "best_iteration": 290,
        "stopped": "iterations used up",
        "history": tuple((i, objective + 0.5 * 0.97**i) for i in range(1, 300, 10)),
        "seconds": 12.5,
        "arrays": arrays,
    }
    return VictimRecord(**{**settings, **changes})


def failed(client, why="diverged"):
    return VictimRecord(round=1, client=client, failure=why)


def attack(label, victims, *, knows=("labels", "batch-size")):
    choice = AttackChoice(name=label, settings={"max_iterations": 300})
    values = next((score.values for one in victims for score in one.scores), {})
    scoring = Scoring(**scenario()["scoring"]) if "ssim" in values else Scoring()
    return finding_of(choice, knows, victims, scoring, seed=3)


def arm(name, attacks, **changes):
    settings = {
        "name": name,
        "values": {},
        "parameters": 930_816,
        "dropout": (0.5, 0.5),
        "model_hash": "feed" * 8,
        "attacked_model": "untrained",
        "rounds": tuple(
            RoundRecord(
                round=r,
                cohort=(0, 1),
                participants=(0, 1),
                training_loss=1.0,
                test_metrics={"test_accuracy": 0.4 + 0.1 * r, "test_loss": 1.0},
            )
            for r in range(1, 5)
        ),
        "replay_matches": True,
        "seconds": 60.0,
    }
    findings = (*attacks, *changes.pop("findings", ()))
    return ArmRecord(**{**settings, **changes}, findings=findings)


def run(arms, **changes):
    settings = {
        "status": "finished",
        "plan": scenario(),
        "digest": "cafe" * 4,
        "threat_model": ("The server follows the protocol and is curious.", "It sees one update of one client."),
        "environment": ENVIRONMENT,
        "started": "2026-01-01T10:00:00Z",
        "ended": "2026-01-01T10:05:00Z",
        "arms": tuple(arms),
        "questions": questions(arms),
    }
    record = RunRecord(**{**settings, **changes})
    return record.with_declarations(record.plan["scoring"]["metric"])


def questions(arms):
    """What the questions that findings are about say of themselves."""
    names = sorted({finding.question for one in arms for finding in one.answers})
    return tuple(_asked(name) for name in names)


def _asked(name):
    own = registry.get("question", name).derived_from(Question)
    assert own is not None
    return info_of(name, own)


def recovered(clients=4, batch=1):
    return [victim(c, [item(i, psnr=30.0 + c, ssim=0.95) for i in range(batch)]) for c in range(clients)]


def missed(clients=4, batch=1, **changes):
    settings = {"objective": 0.4, **changes}
    return [victim(c, [item(i, psnr=8.0 + c, ssim=0.05) for i in range(batch)], **settings) for c in range(clients)]


def partition(counts, **changes):
    """A partition whose every client's class counts are given."""
    sizes = [sum(row) for row in counts]
    settings = {
        "scheme": "dirichlet",
        "clients": len(counts),
        "clients_measured": len(counts),
        "examples_min": min(sizes),
        "examples_median": float(np.median(sizes)),
        "examples_max": max(sizes),
        "class_counts": tuple((client, tuple(row)) for client, row in enumerate(counts[:40])),
        "class_names": tuple(f"class {label}" for label in range(len(counts[0]))),
    }
    return PartitionRecord(**{**settings, **changes})


def guarantee(**changes):
    settings = {
        "source": "dp-sgd",
        "epsilon": 1.8389,
        "delta": 1e-5,
        "rdp_epsilon": 2.1014,
        "accountant": "PRV",
        "unit": "record",
        "adjacency": "add-or-remove",
        "noise_multiplier": 1.0,
        "sampling_rate": 0.01,
        "steps": 1000,
        "composition": "1000 steps of noise multiplier 1 in 10 rounds, those of the client that was sampled most often",
        "adversary": "the server",
    }
    return GuaranteeRecord(**{**settings, **changes})


def typical():
    """Two arms: without dropout the attack succeeds, with dropout only the one that knows or finds the masks."""
    masks = (MaskScore(site="2", units=512, identifiable=512, accuracy=0.99, auc=1.0),)
    informed = ("labels", "batch-size", "masks")
    left_out = RoundRecord(
        round=5,
        cohort=(0, 1),
        participants=(0,),
        training_loss=1.0,
        failures=(Failure(subject="client 1", reason="no data"),),
    )
    first = arm("model.dropout = 0", [attack("ig", recovered())], values={"model.dropout": 0}, dropout=())
    second = arm(
        "model.dropout = 0.5",
        [
            attack("ig", missed()),
            attack("dia", [v.model_copy(update={"masks": masks}) for v in recovered(3)] + [failed(3)]),
            attack("wiig", recovered(), knows=informed),
        ],
        values={"model.dropout": 0.5},
    )
    return run([first, second.model_copy(update={"rounds": (*second.rounds, left_out)})])


def with_arrays(record, shape=(1, 12, 12), seed=0):
    """Give every scored victim random pictures; return the record and its arrays."""
    source = np.random.default_rng(seed)
    arrays = {}
    arms = []
    for a, one_arm in enumerate(record.arms):
        attacks = []
        for b, one_attack in enumerate(one_arm.attacks):
            victims = []
            for v, one in enumerate(one_attack.victims):
                name = f"{a}/{b}/{v}"
                if one.scores:
                    arrays[f"{name}/originals"] = source.random((len(one.scores), *shape), dtype=np.float32)
                    arrays[f"{name}/guesses"] = source.random((len(one.scores), *shape), dtype=np.float32)
                victims.append(one.model_copy(update={"arrays": name}))
            attacks.append(one_attack.model_copy(update={"victims": tuple(victims)}))
        arms.append(one_arm.model_copy(update={"findings": (*attacks, *one_arm.answers)}))
    return record.model_copy(update={"arms": tuple(arms)}), arrays


def save(folder, record, arrays=None):
    run = RunFolder(folder)
    run.write("record.json", record.model_dump_json(indent=2).encode())
    if arrays is not None:
        run.write_arrays(arrays)
    return folder
