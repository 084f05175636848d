"""Guesses of audits, scored: an attack may guess fewer examples than the update holds."""

from fedsim.audit.update_attacks import UpdateAttacker, updates
from fedsim.core.types import Reconstruction
from fedsim.questions.base import QuestionContext
from tests.audit.subjects import small
from tests.audit.subjects import world as world_of


def test_an_example_without_a_guess_is_missing_and_the_update_still_counts() -> None:
    world = world_of(small())
    seen = next(updates(world))
    true = seen.truth.original_batches[0]
    found = Reconstruction(true.inputs[1:], true.labels[1:], None, 0.0, 1, 1, (), "done")
    inspector, work = UpdateAttacker((), lambda _said: None), QuestionContext(place="batch 2")
    victim = inspector._record(seen, found, "1", work)
    assert [item.is_missing for item in victim.scores] == [True, False]
    assert [item.values["psnr"] for item in victim.scores] == [0.0, 160.0]
    assert victim.values == {"label_accuracy": 0.5}
    value = inspector.finding(world, [victim]).value
    assert value.value == 0.5
    assert victim.arrays == "batch 2/1"
    assert work.arrays["batch 2/1/guesses"].shape == (2, 1, 4, 4)
