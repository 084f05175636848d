"""The classifier that guesses a drawing: right on digits that it did not learn from, and the same in the page."""

import torch
from playwright.sync_api import Page

from fedsim.demo.guess import classifier, scores, train
from fedsim.demo.victim import Setting, world_of
from fedsim.metrics.image import to_pixels

LEAST_RIGHT = 0.85  # a linear classifier reaches about that on these digits; a blind guess a tenth


def test_it_recognises_digits_that_it_did_not_learn_from() -> None:
    dataset = world_of(Setting()).data.dataset
    layers = train(dataset.train, dataset.spec)
    guesses = scores(layers, to_pixels(dataset.test.inputs, dataset.spec).flatten(1)).argmax(1)
    assert (guesses == dataset.test.labels).double().mean() > LEAST_RIGHT
    for (weights, biases), packed in zip(layers, classifier()["layers"], strict=True):
        whole = torch.tensor(packed["weights"]) * packed["scale"]
        assert (whole - weights).abs().max() <= packed["scale"] / 2 + 1e-7  # training again gives the same weights
        torch.testing.assert_close(torch.tensor(packed["biases"]), biases, atol=1e-5, rtol=0)


def test_the_page_guesses_as_the_program_does_and_follows_the_drawing(live_page: Page) -> None:
    dataset = world_of(Setting()).data.dataset
    pixels = to_pixels(dataset.test.inputs[:60], dataset.spec).flatten(1)
    greys = (pixels * 255).round().int()
    layers = [
        (torch.tensor(own["weights"]) * own["scale"], torch.tensor(own["biases"])) for own in classifier()["layers"]
    ]
    theirs = live_page.evaluate("(all) => all.map((own) => scoresOf(own))", pixels.tolist())
    torch.testing.assert_close(torch.tensor(theirs), scores(layers, pixels), atol=1e-3, rtol=1e-3)
    guessed = live_page.evaluate("(all) => all.map((own) => guessDigit(own))", greys.tolist())
    right = (torch.tensor(guessed) == dataset.test.labels[:60]).double().mean()
    assert right > LEAST_RIGHT - 0.1  # 60 digits, centred anew
    assert live_page.evaluate("guessDigit(Array(784).fill(0))") is None
