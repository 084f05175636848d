"""The experiment on ceilings of steps and sums."""

from benchmarks.ideal_attacker_of_sums import ceiling, rows


def test_an_update_has_the_ceiling_and_that_of_who_knows_the_others() -> None:
    bound = ceiling(0, clients=2, noise=0.1)
    assert bound.inputs == 128
    alone, others = rows("a sum", [bound])
    assert (alone.value, others.value, alone.note) == (
        bound.psnr,
        bound.psnr_other_clients_known,
        f"rank {bound.rank} of 128",
    )
    assert [row.name for row in rows("none", [bound.model_copy(update={"psnr": None})])] == ["others known"]
