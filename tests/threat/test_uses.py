"""How often each training example was in a batch of an update that counted."""

from fedsim.record import Failure, RoundRecord
from fedsim.scenario import world as worlds
from fedsim.threat.uses import count_training
from tests.experiment.running import Build
from tests.questions.membership.judged import SMALL


def test_rounds_and_clients_that_did_not_count_make_no_members(scenario: Build) -> None:
    world = worlds.build(scenario(**SMALL))
    lost = (Failure(subject="somebody", reason="late", cause="late"),)
    aborted = (Failure(subject="round", reason="too few", cause="aborted"),)
    rounds = [
        RoundRecord(round=1, cohort=(0, 1), participants=(0,), training_loss=1.0, failures=lost),
        RoundRecord(round=2, cohort=(0, 2), participants=(), training_loss=1.0, failures=aborted),
    ]
    uses = count_training(world, rounds)
    assert uses.nonzero().flatten().tolist() == sorted(
        {int(i) for chosen in world.data.numbers_of(1, 0) for i in chosen}
    )
