"""A trace is a line of JSON, and reads back."""

from fedsim.record import TraceRecord


def test_a_series_is_one_text_in_json() -> None:
    own = TraceRecord(question="prompt", about=3, ending="length", tokens=(2, 1, 0), counts={"layers": (4, 4, 30)})
    written = own.model_dump_json()
    assert '"tokens":"2 1 0","counts":{"layers":"4 4 30"}' in written
    assert TraceRecord.model_validate_json(written) == own
    assert TraceRecord.model_validate(own.model_dump()) == own
    assert TraceRecord.model_validate({**own.model_dump(), "tokens": ""}).tokens == ()
