"""What tasks make of a guess: figures by name, and what a report shows of it."""

import numpy as np
import torch

from fedsim.core.hooks import Task
from fedsim.core.types import Batch, Config, Dataset, InputSpec, Planted, Reconstruction, Truth, Update
from fedsim.tasks.classification import Classification
from fedsim.tasks.next_token import NextToken

IMAGES, TEXT = Classification(Config()), NextToken(Config())


def truth(batch: Batch) -> Truth:
    return Truth((batch,), ((),), Update("gradient", {}, {}, len(batch), 0.0), (batch,))


class Letters:
    """One letter a token, 0 fills up."""

    vocabulary, padding, begin, end = 27, 0, None, 0

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - 96 for letter in text]

    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(96 + token) for token in tokens if token)


def test_images_are_matched_missing_ones_are_the_worst_and_public_ones_stand_beside_them() -> None:
    pixels = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    own = Batch((pixels[:2] - 0.5) / 0.2, torch.tensor([1, 0]))
    others = Batch((pixels[2:] - 0.5) / 0.2, torch.tensor([1]))
    data = Dataset(own, others, InputSpec((1, 4, 4), 2, (0.5,), (0.2,)), ("a", "b"))
    found = IMAGES.score(truth(own), own, Reconstruction.of(own.inputs.flip(0), torch.tensor([0, 1])), data)
    assert [item.values["psnr"] for item in found.items] == [160.0, 160.0]
    assert found.order is not None
    assert found.order.tolist() == [1, 0]
    assert found.values == {"label_accuracy": 1.0}
    assert found.notes == ()
    assert found.arrays["public"].shape == (2, 1, 4, 4)
    assert np.array_equal(found.arrays["public"][0], (255 * pixels[2]).round().to(torch.uint8).numpy())
    shown = IMAGES.show(own.inputs, data)
    assert isinstance(shown, np.ndarray)
    assert np.allclose(shown, pixels[:2].numpy(), atol=1e-6)  # rounding of float32
    one = IMAGES.score(truth(own), own, Reconstruction.of(own.inputs[:1], torch.tensor([1])), data)
    assert [item.values["psnr"] for item in one.items] == [160.0, 0.0]
    assert one.notes[0].startswith("it guessed 1 of 2 examples")
    assert one.guess is not None
    assert len(one.guess.inputs) == 2


def test_sentences_are_scored_with_their_words_and_shown_as_text() -> None:
    letters = Letters()
    rows = torch.tensor([letters.encode("abcd"), [*letters.encode("xyz"), 0]])
    own = Batch(rows, rows)
    spec = InputSpec((4,), 27, (), (), vocabulary=27, padding=0)
    data = Dataset(own, own, spec, ("text",), tokenizer=letters, planted=(Planted("canary", "xyz", (1,)),))
    guess = Reconstruction.of(torch.tensor([[24, 25, 26, -1], [1, 2, 3, 5]]))
    found = TEXT.score(truth(own), own, guess, data)
    assert [item.values["exact"] for item in found.items] == [0.0, 1.0]
    assert [item.values["token_accuracy"] for item in found.items] == [0.75, 1.0]
    assert found.found == {"words found": 6 / 7, "found words that are right": 6 / 7}
    assert (found.order, found.values, dict(found.arrays)) == (None, {}, {})
    assert TEXT.show(guess.inputs, data) == ("xyz", "abce")


def test_numbers_are_shown_in_a_row_by_a_task_that_says_nothing() -> None:
    rows = torch.tensor([[0.5, -2.0], [1 / 3, 0.0]])
    batch = Batch(rows, torch.zeros(2))
    data = Dataset(batch, batch, InputSpec((2,), 1, (), ()), ())
    assert Task.show(IMAGES, rows, data) == ("0.5 -2", "0.3333 0")
