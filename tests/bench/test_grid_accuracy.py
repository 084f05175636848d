"""What is right of a model's answers about grids, by a model that knows all and one that knows nothing."""

import pytest
import torch

from fedsim.bench import grid_accuracy
from fedsim.bench.grid_accuracy import accuracy, questions
from fedsim.data._grid_words import GridWords

WORDS = GridWords(4)


def test_questions_are_of_one_kind_and_the_same_each_time() -> None:
    for kind in grid_accuracy.MEASURED:
        own = questions(kind, 30, 1)
        assert {WORDS.kind(row) for row in own.extra_inputs["question"].tolist()} == {kind}
        assert torch.equal(own.inputs, questions(kind, 30, 1).inputs)


@pytest.mark.parametrize("kind", grid_accuracy.MEASURED)
def test_whoever_knows_the_answers_is_right_with_light_alone(kind) -> None:
    known = questions(kind, 40, 1)
    answers = {row.numpy().tobytes(): label for row, label in zip(known.inputs, known.labels, strict=True)}

    def model(images, question, answer):
        scores = torch.zeros(len(images), 2, len(WORDS.words))
        for row, image in enumerate(images):
            label = answers.get(image.numpy().tobytes())
            for place in range(2 if label is not None else 0):
                scores[row, place, label[place]] = 1.0
        return scores

    found = accuracy(model, kind, 40, 1)  # type: ignore[arg-type]
    assert (found.right.value, found.right.n, found.blind.value) == (1.0, 40, 0.0)
    counts = known.labels[:, 0].bincount()
    assert found.majority == float(counts.max()) / 40
    assert (found.repeated_digits is None) == (kind != "counting")
    assert found.repeated_digits is None or found.repeated_digits.value == 1.0
