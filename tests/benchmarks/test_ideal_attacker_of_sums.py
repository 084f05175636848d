"""The benchmark of ceilings of steps and sums."""

from benchmarks.ideal_attacker_of_sums import ceiling, row


def test_a_row_has_the_ceiling_and_that_of_who_knows_the_others() -> None:
    found = ceiling(0, clients=2, noise=0.1)
    assert found.inputs == 128
    told = row("a sum", [found])
    assert told == f"| a sum | {found.psnr:.1f} dB | {found.others_known:.1f} dB | {found.rank} of 128 |"
    assert row("none", [found.model_copy(update={"psnr": None})]).startswith("| none |  | ")
