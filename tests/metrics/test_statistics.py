import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap

from fedsim.metrics.masks import mask_accuracy
from fedsim.metrics.statistics import mean_interval, median_interval, summarise, wilson
from fedsim.metrics.success import Rule
from fedsim.record import ItemScore, MaskScore, VictimRecord
from fedsim.tasks.core.images import label_values


def singles(values):
    return [[float(value)] for value in values]


def item(index=0, psnr=20.0, ssim=0.6, label=1, guessed=1) -> ItemScore:
    values = {"mse": 10 ** (-psnr / 10), "mse_normalised": 1.0, "psnr": psnr, "ssim": ssim}
    return ItemScore(index=index, values=values, label=label, guessed_label=guessed)


def victim(client, *scores, masks=(), failure=None) -> VictimRecord:
    values = label_values(scores) if scores and scores[0].label is not None else {}
    right = mask_accuracy(masks)
    values |= {} if right is None else {"mask_accuracy": right}
    return VictimRecord(round=1, client=client, scores=scores, values=values, masks=masks, failure=failure)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 10), (3, 10), (10, 10), (64, 128)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_agrees_with_scipy(successes, n, confidence):
    interval = wilson(successes, n, confidence)
    reference = binomtest(successes, n).proportion_ci(confidence, "wilson")
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_wilson_known_value():
    interval = wilson(3, 64)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.0469, 0.0161, 0.1290), abs=1e-4)


@given(st.integers(1, 200), st.floats(0, 1))
def test_wilson_holds_its_estimate(n, share):
    interval = wilson(share * n, n)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_wilson_refuses_nothing():
    with pytest.raises(ValueError, match="n >= 1"):
        wilson(0, 0)


def test_mean_interval_agrees_with_scipy():
    values = np.random.default_rng(0).normal(20, 3, 40)
    interval = mean_interval(singles(values), np.random.default_rng(1), resamples=4000)
    reference = bootstrap(
        (values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high), abs=0.15)


@pytest.mark.parametrize("interval", [mean_interval, median_interval])
def test_there_are_2000_resamples_unless_said(interval):
    values, one, other = singles(np.arange(9.0) ** 2), np.random.default_rng(5), np.random.default_rng(5)
    assert interval(values, one) == interval(values, other, resamples=2000)
    assert one.random() == other.random()  # as much was drawn


def test_the_bounds_are_quantiles_of_as_many_resamples_as_asked_for():
    values, resamples = np.array([1.0, 2.0, 4.0, 8.0]), 7
    interval = mean_interval(singles(values), np.random.default_rng(5), confidence=0.5, resamples=resamples)
    chosen = np.random.default_rng(5).integers(4, size=(resamples, 4))
    means = sorted(float(np.mean([values[place] for place in row])) for row in chosen)
    # The quantiles 1/4 and 3/4 of 7 means lie halfway between the second and third, and the fifth and sixth of them.
    assert interval.low == pytest.approx((means[1] + means[2]) / 2)
    assert interval.high == pytest.approx((means[4] + means[5]) / 2)


def test_the_generator_decides():
    values = singles(range(10))
    assert median_interval(values, np.random.default_rng(5)) == median_interval(values, np.random.default_rng(5))


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_victims_have_no_interval(n):
    interval = median_interval(singles(range(n)), np.random.default_rng(0))
    assert (interval.low, interval.high, interval.n) == (None, None, n)


def test_no_victims_have_no_estimate():
    with pytest.raises(ValueError, match="at least one victim"):
        mean_interval([], np.random.default_rng(0))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.floats(0, 100), min_size=1, max_size=4), min_size=3, max_size=8))
def test_estimates_lie_among_the_values(values):
    flat = [value for cluster in values for value in cluster]
    interval = mean_interval(values, np.random.default_rng(0), resamples=100)
    assert interval.value == pytest.approx(np.mean(flat))
    assert min(flat) - 1e-9 <= interval.low <= interval.high <= max(flat) + 1e-9
    assert median_interval(values, np.random.default_rng(0), resamples=100).value == pytest.approx(np.median(flat))


def covered(draw, trials=200):
    source = np.random.default_rng(0)
    intervals = [mean_interval(draw(source), source, resamples=400) for _ in range(trials)]
    return np.mean([i.low <= 0.0 <= i.high for i in intervals])


def test_the_bootstrap_covers():
    assert 0.90 <= covered(lambda source: singles(source.normal(0, 1, 40))) <= 0.99


def test_clusters_are_resampled_whole():
    def clustered(source):
        return (source.normal(0, 1, (20, 1)) + source.normal(0, 0.1, (20, 8))).tolist()

    assert 0.86 <= covered(clustered) <= 0.99
    assert covered(lambda source: singles(np.ravel(clustered(source)))) < 0.7


def test_secrets_count_by_the_share_of_each_update_that_holds_one():
    def sentence(secret, read):
        values = {"exact": 1.0, "token_accuracy": 1.0, "rouge_l": 1.0}
        if secret is not None:
            values["secret_read"] = float(read)
        return ItemScore(index=0, values=values, text="a", guess="a", secret=secret)

    held = [[sentence("1", True), sentence("2", False)], [sentence("3", True)], [sentence(None, False)]]
    victims = [victim(number).model_copy(update={"scores": tuple(own)}) for number, own in enumerate(held)]
    secrets = summarise(victims, Rule.of("identified", 0.5), seed=0).metrics["text.secrets"]
    assert (secrets.value, secrets.n) == (0.75, 2)
    assert secrets == wilson(1.5, 2)
    without = summarise(victims[2:], Rule.of("identified", 0.5), seed=0)
    assert "text.secrets" not in without.metrics


def test_rouge_is_a_mean_with_its_interval_and_absent_where_a_record_has_none():
    def read(rouge):
        grams = {} if rouge is None else {"rouge_1": rouge, "rouge_2": rouge}
        values = {"exact": 0.0, "token_accuracy": 1.0, **grams, "rouge_l": 0.5}
        return ItemScore(index=0, values=values, text="a", guess="a")

    victims = [victim(n).model_copy(update={"scores": (read(n / 4), read(n / 4))}) for n in range(5)]
    text = summarise(victims, Rule.of("identified", 0.5), seed=0).metrics
    assert text["text.rouge_1"] == text["text.rouge_2"]
    assert (text["text.rouge_1"].value, text["text.rouge_1"].n) == (0.5, 5)
    assert 0.0 <= text["text.rouge_1"].low < 0.5 < text["text.rouge_1"].high <= 1.0
    assert (text["text.rouge_l"].low, text["text.rouge_l"].high) == (0.5, 0.5)
    before = [victim(0).model_copy(update={"scores": (read(None),)})]
    assert "text.rouge_1" not in summarise(before, Rule.of("identified", 0.5), seed=0).metrics


def test_failures_are_in_no_figure():
    victims = [victim(0, item(psnr=30)), victim(1, item(psnr=20, ssim=0.1)), victim(2, failure="diverged")]
    summary = summarise(victims, Rule.of("ssim", 0.5), seed=0)
    assert summary.success == wilson(1, 2)
    assert (summary.metrics["psnr_median"].value, summary.metrics["psnr_median"].n) == (25.0, 2)


def test_only_failures_leave_no_rate():
    assert summarise([victim(0, failure="a"), victim(1, failure="b")], Rule.of("ssim", 0.5), seed=0) is None


def test_several_images_share_their_victims_fate():
    batch = (item(0, ssim=0.9), item(1, ssim=0.9), item(2, ssim=0.1), item(3, ssim=0.1, guessed=7))
    summary = summarise([victim(c, *batch) for c in range(4)], Rule.of("ssim", 0.5), seed=0)
    assert summary.success == wilson(2, 4)
    assert (summary.metrics["ssim_mean"].value, summary.metrics["ssim_mean"].n) == (pytest.approx(0.5), 4)
    assert summary.metrics["label_accuracy"].value == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("metric", "threshold", "rate"), [("psnr", 19.0, 1.0), ("psnr", 20.0, 0.0), ("mse", 0.011, 1.0), ("mse", 0.01, 0.0)]
)
def test_success_is_strict_and_knows_its_direction(metric, threshold, rate):
    assert summarise([victim(0, item())], Rule.of(metric, threshold), seed=0).success.value == rate


def test_mask_accuracy_weighs_sites_by_what_can_be_seen():
    masks = (
        MaskScore(site="a", units=10, identifiable=8, accuracy=1.0, auc=1.0),
        MaskScore(site="b", units=10, identifiable=2, accuracy=0.0, auc=None),
        MaskScore(site="c", units=10, identifiable=0, accuracy=None, auc=None),
    )
    summary = summarise([victim(0, item(), masks=masks)], Rule.of("ssim", 0.5), seed=0)
    assert summary.metrics["mask_accuracy"].value == pytest.approx(0.8)


def test_the_seed_decides_and_the_values_order_of_fields_does_not():
    victims = [victim(c, item(psnr=10.0 + c)) for c in range(6)]
    assert summarise(victims, Rule.of("ssim", 0.5), seed=3) == summarise(victims, Rule.of("ssim", 0.5), seed=3)
