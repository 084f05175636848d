"""Questions about images: what is compared, and what is right."""

from dataclasses import replace

import pytest
import torch

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.nets.visual import Passed
from fedsim.core.types import Batch, Dataset, Reconstruction
from fedsim.tasks.visual_question_answering import READ_QUESTION, are_right, visual_tokens
from tests.models.vlms import SPEC, WORDS, examples, small_vlm
from tests.tasks.truths import truth

METHOD = registry.get("task", "visual-question-answering")
TASK = METHOD.make(METHOD.config())


def batch(count: int = 3) -> Batch:
    images, question, first = examples(count)
    labels = torch.cat((first, torch.full((count, 1), WORDS.of("<eos>")), torch.full((count, 1), -100)), 1)
    return Batch(images, labels, {"question": question})


def test_the_model_reads_the_answers_tokens_but_the_last() -> None:
    seen = {}

    def model(images, **given):
        seen.update(given)
        return torch.zeros(3, 3, SPEC.classes)

    own = batch()
    own.labels[0, 1] = -100
    TASK.outputs(model, own, {})
    assert seen["answer"].tolist() == own.labels[:, :2].clamp_min(0).tolist()
    assert torch.equal(seen["question"], own.extra_inputs["question"])


def test_the_loss_counts_the_answer_and_its_end_alone() -> None:
    model, own = small_vlm(), batch()
    outputs = TASK.outputs(model, own, {})
    by_hand = [
        -sum(outputs[row, place].log_softmax(-1)[own.labels[row, place]] for place in range(2)) / 2 for row in range(3)
    ]
    torch.testing.assert_close(TASK.losses(outputs, own.labels), torch.stack(by_hand))
    changed = outputs.clone()
    changed[:, 2] += 1.0
    assert torch.equal(TASK.losses(changed, own.labels), TASK.losses(outputs, own.labels))


def test_an_answer_is_right_as_a_whole() -> None:
    labels = torch.tensor([[3, 4, -100], [3, 4, -100], [3, 4, 5]])
    assert are_right(torch.tensor([[3, 4, 9], [3, 5, 9], [3, 4, 5]]), labels).tolist() == [True, False, True]


def test_it_tests_on_whole_answers() -> None:
    own, model = batch(), small_vlm()
    with torch.no_grad():
        right = model(own.inputs, own.extra_inputs["question"], own.labels[:, :2].clamp_min(0)).argmax(-1)
    own.labels[:2, :2] = right[:2, :2]
    data = Dataset(own, own, SPEC, WORDS.words)
    with torch.no_grad():
        figures = TASK.evaluate(model, data, torch.Generator())
    expected = are_right(
        model(own.inputs, own.extra_inputs["question"], own.labels[:, :2].clamp_min(0)).argmax(-1), own.labels
    )
    assert figures["test_accuracy"] == pytest.approx(float(expected.double().mean()))
    assert figures["visual_tokens"] == model.visual.patches
    assert not model.listeners, "the test leaves no listener behind"


def test_visual_tokens_are_the_mean_over_layers_and_examples() -> None:
    first = Passed((torch.tensor([[0, 1, 2], [0, -1, -1]]), torch.tensor([[0, 1, -1], [0, -1, -1]])), ((9, 9), (9, 9)))
    second = Passed((torch.tensor([[4, 5, 6]]), torch.tensor([[4, 5, -1]])), ((9,), (9,)))
    assert visual_tokens([first, second]) == pytest.approx((3 + 1 + 2 + 1 + 3 + 2) / 6)


def test_a_model_that_tells_no_visual_tokens_is_tested_without_them() -> None:
    own = batch()

    def model(images, **given):
        return torch.zeros(len(images), 3, SPEC.classes)

    assert set(TASK.evaluate(model, Dataset(own, own, SPEC, WORDS.words), torch.Generator())) == {
        "test_accuracy",
        "test_loss",
    }


def test_a_guess_is_scored_by_its_image_and_the_first_word() -> None:
    own = batch()
    data = Dataset(own, own, SPEC, WORDS.words)
    guess = Reconstruction.of(own.inputs.flip(0), own.labels.flip(0)[:, 0])
    found = TASK.score(truth(own), own, guess, data)
    assert found.values == {"label_accuracy": 1.0}
    assert [item.label for item in found.items] == own.labels[:, 0].tolist()
    assert all(item.values["mse"] == 0 for item in found.items)
    assert TASK.show(own.inputs, data).shape == (3, 1, 28, 28)


def test_a_missing_guess_has_read_no_question_even_where_all_ask_the_same() -> None:
    own = batch()
    same = replace(
        own,
        extra_inputs={**own.extra_inputs, "question": own.extra_inputs["question"][:1].expand(len(own), -1).clone()},
    )
    data = Dataset(same, same, SPEC, WORDS.words)
    guess = replace(
        Reconstruction.of(same.inputs[:1], same.labels[:1, 0]),
        extras={READ_QUESTION: same.extra_inputs["question"][:1]},
    )
    found = TASK.score(truth(same), same, guess, data)
    assert {"questions_read": found.values["questions_read"]} == {"questions_read": pytest.approx(1 / len(own))}


def test_data_without_questions_are_refused() -> None:
    own = Batch(batch().inputs, batch().labels)
    refused = TASK.refuses(Dataset(own, own, SPEC, WORDS.words))
    assert refused == "it needs a question for each image, and the data set has no 'question'"


def test_an_attackers_model_is_told_what_is_granted() -> None:
    own, model = batch(), small_vlm()
    TASK.tell(model, own.extra_inputs, own.labels)
    assert torch.equal(model(own.inputs), TASK.outputs(model, own, {}))
    TASK.tell(model, own.extra_inputs, None)
    assert model(own.inputs).shape == (3, 1, SPEC.classes)
    TASK.tell(torch.nn.Linear(1, 1), own.extra_inputs, own.labels)


def test_a_model_that_reads_no_question_is_refused() -> None:
    with pytest.raises(FedsimError, match="has no argument 'question'. Choose a vision-language model"):
        TASK.outputs(torch.nn.Linear(28, 40), batch(), {})
