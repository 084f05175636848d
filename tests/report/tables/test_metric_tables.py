"""Tables of metrics that only some runs have."""

from fedsim.core import registry
from fedsim.report.tables.metric_tables import counts_of
from tests.report.attacked import attack, item


def test_labels_are_counted_by_the_share_of_the_smaller_one_and_the_table_is_absent_without_composites() -> None:
    shares = [(0.01, False), (0.05, True), (0.1, True), (0.3, False), (0.5, True)]
    seen = attack([item(psnr_trained=90, minor_share=share, minor_found=found) for share, found in shares])
    assert seen.value is not None
    assert seen.extra_metrics["composites.minor_found"].value == 0.6
    assert list(counts_of(seen, registry.every_metric()["minor_found"])) == ["1 of 2", "1 of 1", "1 of 2"]
    plain = attack([item()])
    assert plain.value is not None
    assert not [name for name in plain.extra_metrics if name.startswith("composites")]
