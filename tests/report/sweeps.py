"""Sweeps that never happened, for the report to judge."""

import json

from fedsim.metrics.membership import name_of
from fedsim.record import Finding, Interval


def scenario(records, defense="none", seed=1, **changes):
    defenses = [] if defense == "none" else [{"name": defense.split()[0], "scale": float(defense.split()[1])}]
    model = {"name": "mlp", "checkpoint": None, "dropout": 0.0}
    return records.scenario(seed=seed, model=model, defenses=defenses, **changes)


def run(records, defense, seed, victims, *, accuracy=0.9, attacks=None, **arm):
    """One run: an accuracy, and what attack "ig" made of its victims."""
    rounds = (
        records.RoundRecord(
            round=1, cohort=(0, 1), participants=(0, 1), training_loss=1.0, test_metrics={"test_accuracy": accuracy}
        ),
    )
    tried = [records.attack("ig", victims), *(attacks or ())]
    one = records.arm("one arm", tried, dropout=(), rounds=rounds, **arm)
    return records.run([one], plan=scenario(records, defense, seed))


def one(records, defense, seed, victims, **more):
    """One run as `save` takes it, named after its defense."""
    return defense, seed, run(records, defense, seed, victims, **more)


def save(folder, records, runs, *, policy=None, title="Dropout", arrays=None, **changes):
    """Write the folder of a sweep; a run whose record is text has that text as its file, one of None has no file."""
    planned = []
    for number, (defense, seed, record) in enumerate(runs):
        digest = f"{number:016x}"
        planned.append({"digest": digest, "name": f"defense {defense}", "values": {"defense": defense, "seed": seed}})
        path = folder / "runs" / digest
        if isinstance(record, str):
            path.mkdir(parents=True)
            (path / "record.json").write_text(record)
        elif record is not None:
            records.save(path, record, arrays)
    folder.mkdir(exist_ok=True)
    whole = {**scenario(records), "title": title, "policy": policy or {}, **changes}
    plan = {"schema_version": 1, "title": title, "digest": "feed" * 4, "scenario": whole, "runs": planned}
    (folder / "sweep.json").write_text(json.dumps(plan))
    return folder


def typical(records, seeds=(1, 2, 3)):
    """Undefended everything is recovered, little noise costs nothing and hides nothing, much noise hides all."""
    return [
        one(records, name, seed, victims, accuracy=accuracy + 0.01 * seed)
        for name, victims, accuracy in (
            ("none", records.recovered(8), 0.90),
            ("gradient-noise 0.01", records.recovered(8), 0.89),
            ("gradient-noise 1.0", records.missed(8, converged=True), 0.88),
        )
        for seed in seeds
    ]


def membership(label, hits, *, n=1000, fpr=0.01):
    """The finding of a membership attack and its curve, as parts of an arm."""
    tpr = Interval(value=hits / n, low=max(0.0, hits / n - 0.02), high=hits / n + 0.02, n=n)
    finding = Finding(
        question="membership",
        label=label,
        method=label,
        scope={"target": "model", "members": n, "non_members": n},
        metric=name_of(fpr),
        value=tpr,
        chance_level=fpr,
        extra_metrics={
            "auc": Interval(value=0.6, low=0.55, high=0.65, n=2 * n),
            "advantage": Interval(value=0.2, low=None, high=None, n=2 * n),
        },
        items=f"membership/{label}/roc",
    )
    return {
        "findings": (finding,),
        "items": {finding.items: {"fpr": [0.0, fpr, 1.0], "tpr": [0.0, hits / n, 1.0]}},
    }
