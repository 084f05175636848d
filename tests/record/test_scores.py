"""Scores of examples: what is absent is not written, and victims are named."""

from fedsim.record import ItemScore, VictimRecord


def test_what_an_example_has_not_is_not_written_and_reads_back() -> None:
    own = ItemScore(index=2, values={"psnr": 20.0}, label=0)
    assert own.model_dump() == {"index": 2, "values": {"psnr": 20.0}, "label": 0}
    assert ItemScore.model_validate(own.model_dump()) == own
    missing = ItemScore(index=0, values={}, is_missing=True, text="")
    assert missing.model_dump() == {"index": 0, "values": {}, "is_missing": True, "text": ""}


def test_further_values_are_added_behind_and_leave_the_score_as_it_was() -> None:
    own = ItemScore(index=0, values={"psnr": 20.0})
    more = own.with_values({"ssim": 0.5, "psnr": 21.0})
    assert more.values == {"psnr": 21.0, "ssim": 0.5}
    assert own.values == {"psnr": 20.0}


def test_a_victim_is_a_client_or_a_sum() -> None:
    assert VictimRecord(round=1, client=3).sender == "client 3"
    assert VictimRecord(round=1, client=3, clients=(3,)).sender == "sum of 1 client"
    summed = VictimRecord(round=1, client=3, clients=(3, 5), scores=(ItemScore(index=0, values={}),))
    assert (summed.sender, summed.examples) == ("sum of 2 clients", 1)
