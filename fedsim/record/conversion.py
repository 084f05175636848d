"""Records of earlier schemas as those of the present one.

In schema 1 each metric was a field of its own: of a round, of an image, of a sentence, of a summary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedsim.core import registry

Json = dict[str, Any]

_TESTED = ("test_spearman", "test_span_f1", "test_accuracy", "test_loss")
_OF_IMAGES = ("mse", "mse_normalised", "psnr", "ssim", "psnr_trained", "ssim_trained", "psnr_seen", "seen")
_OF_IMAGES = (*_OF_IMAGES, "minor_share", "minor_found", "share_error")
_OF_SENTENCES = ("exact", "token_accuracy", "rouge_1", "rouge_2", "rouge_l")


def from_first(record: Json) -> Json:
    """Return a record of schema 1 as one of schema 2, with what its metrics declare."""
    arms = [_arm(arm) for arm in record.get("arms", ())]
    rule = record.get("scenario", {}).get("scoring", {}).get("metric", "ssim")
    used = [name for arm in arms for name in _used(arm)]
    metrics = [own.model_dump(mode="json") for own in registry.declared([*used, rule])]
    return {**record, "schema_version": 2, "arms": arms, "metrics": metrics}


def victim_from_first(victim: Json) -> Json:
    """Return one attacked update of schema 1 as schema 2 has it."""
    sentences = [_sentence(own) for own in victim.get("sentences", ())]
    kept = {name: value for name, value in victim.items() if name != "sentences"}
    return {**kept, "scores": [*(_image(item) for item in victim.get("scores", ())), *sentences]}


def summary_from_first(summary: Json | None) -> Json | None:
    """Return a summary of schema 1 as schema 2 has it; figures of its parts are named after these."""
    if summary is None:
        return None
    return {"success": summary["success"], "metrics": dict(_intervals({**summary, "success": None}))}


def _arm(arm: Json) -> Json:
    attacks = [
        {
            **attack,
            "victims": [victim_from_first(victim) for victim in attack.get("victims", ())],
            "summary": summary_from_first(attack.get("summary")),
        }
        for attack in arm.get("attacks", ())
    ]
    return {**arm, "rounds": [_round(entry) for entry in arm.get("rounds", ())], "attacks": attacks}


def _round(entry: Json) -> Json:
    kept = {name: value for name, value in entry.items() if name not in _TESTED}
    return {**kept, "tested": _present(entry, _TESTED)}


def _image(item: Json) -> Json:
    label = item.get("guessed_label")
    return {
        "index": item["index"],
        "values": _present(item, _OF_IMAGES),
        "label": item["label"],
        "guessed_label": label,
        "is_missing": label is None,
    }


def _sentence(own: Json) -> Json:
    values = _present(own, _OF_SENTENCES)
    secret = own.get("secret")
    if secret is not None:
        values["secret_read"] = float(own.get("secret_read", False))
    kept = {name: own[name] for name in ("index", "text", "guess")}
    return {**kept, "values": values, "secret": secret, "is_missing": not own["guess"]}


def _present(fields: Json, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the figures among fields that are there; yes and no as 1 and 0."""
    found = ((name, fields.get(name)) for name in names)
    return {name: float(value) if isinstance(value, bool) else value for name, value in found if value is not None}


def _intervals(summary: Json, prefix: str = "") -> Iterator[tuple[str, Json]]:
    for name, value in summary.items():
        if not isinstance(value, dict):
            continue
        if "value" in value:
            yield f"{prefix}{name}", value
        else:
            yield from _intervals(value, f"{name}.")


def _used(arm: Json) -> Iterator[str]:
    for entry in arm["rounds"]:
        yield from entry["tested"]
    for attack in arm["attacks"]:
        for victim in attack["victims"]:
            for item in victim["scores"]:
                yield from item["values"]
        if attack["summary"]:
            yield from (name for name in ("label_accuracy", "mask_accuracy") if name in attack["summary"]["metrics"])
