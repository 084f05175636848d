"""A Trainer is audited as it is: its model, data and loss."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer

from fedsim.audit.loading import load_subject
from fedsim.audit.subject import check_subject
from fedsim.core.errors import FedsimError
from tests.audit.adapters.recovering import attacked, share
from tests.audit.adapters.trainers import Net, pictures, trainer


def test_model_data_and_settings_are_those_of_the_trainer(tmp_path: Path) -> None:
    subject = load_subject(
        trainer(tmp_path, eval_dataset=pictures(8), learning_rate=0.02, optim="sgd"), "train:trainer"
    )
    assert subject.notes == (
        (
            "Understood: transformers Trainer of Net, 4 tensors are sent after a single step; loss: "
            "cross-entropy; it uses 12 examples per step (--batch-sizes 12 attacks such steps)."
        ),
    )
    assert (subject.optimizer, subject.learning_rate, subject.loss) == ("sgd", 0.02, None)
    sound = check_subject(subject, "train:trainer")
    assert (len(sound.dataset.train), len(sound.dataset.test), sound.dataset.spec.classes) == (24, 8, 4)
    assert sound.model.training


def test_one_example_comes_back_through_a_dense_layer(tmp_path: Path) -> None:
    assert share(load_subject(trainer(tmp_path), "train:trainer")) == 1.0


class Weighted(Trainer):
    """A trainer with a loss of its own, as its documentation shows one."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_more: Any) -> Any:
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = F.cross_entropy(outputs["logits"], labels, weight=torch.tensor([1.0, 2.0, 3.0, 4.0]))
        return (loss, outputs) if return_outputs else loss


class Penalised(Weighted):
    """A trainer whose loss needs more than scores."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
        penalty = inputs.get("pixel_values", torch.zeros(1)).sum()
        return super().compute_loss(model, inputs, return_outputs, **more) + penalty


def focal(outputs: Any, labels: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    return (F.cross_entropy(outputs["logits"], labels, reduction="none") ** 2).mean()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": Weighted}, "that of Weighted.compute_loss"),
        ({"compute_loss_func": focal}, "its compute_loss_func"),
        ({"label_smoothing_factor": 0.1}, "cross-entropy with label smoothing of 0.1"),
    ],
)
def test_the_loss_is_what_the_trainer_computes(tmp_path: Path, settings: Any, words: str) -> None:
    one = trainer(tmp_path, **settings)
    subject = load_subject(one, "train:trainer")
    assert f"loss: {words};" in subject.notes[0]
    inputs = one.data_collator(pictures(6))
    scores, labels = one.model(inputs["pixel_values"])["logits"], inputs["labels"]
    expected = one.compute_loss(one.model, dict(inputs))
    assert torch.allclose(subject.loss(scores, labels), expected, rtol=1e-5)  # float32 in another order
    (slope,) = torch.autograd.grad(subject.loss(scores, labels), scores)
    assert bool(slope.any())


def texts(folder: Path, **more: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"n_embd": 24, "n_layer": 1, "n_head": 2, "n_positions": 16, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, bos_token_id=0, eos_token_id=0, **shape))
    rows = torch.randint(50, (12, 6), generator=torch.Generator().manual_seed(1))
    return trainer(folder, model, data=[{"input_ids": row, "labels": row} for row in rows], **more)


def tokens(outputs: Any, labels: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    return 2 * F.cross_entropy(outputs["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def test_texts_of_a_trainer_are_next_tokens(tmp_path: Path) -> None:
    one = texts(tmp_path, compute_loss_func=tokens)
    subject = load_subject(one, "train:trainer")
    assert (
        subject.notes[1]
        == "Texts of a batch have equal weight, whatever their length; a Trainer weights tokens equally."
    )
    sound = check_subject(subject, "train:trainer")
    assert (sound.task.name, sound.dataset.spec.shape) == ("next-token", (5,))
    batch = sound.dataset.train.select(torch.arange(2))
    scores = torch.randn(2, 5, 50, generator=torch.Generator().manual_seed(2))
    expected = 2 * F.cross_entropy(scores.flatten(0, 1), batch.labels.flatten())
    assert torch.allclose(subject.loss(scores, batch.labels), expected)


def test_a_model_of_peft_in_a_trainer_sends_what_is_trainable(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(Net(), LoraConfig(target_modules=["head"], r=2))  # type: ignore[arg-type]
    subject = load_subject(trainer(tmp_path, model), "train:trainer")
    assert subject.notes[0] == "Understood: peft LoRA, 2 tensors of rank 2 are sent; base frozen."
    assert subject.notes[1].startswith("Understood: transformers Trainer of PeftModel")


def of_two_sentences(folder: Path) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    shape = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    return trainer(folder, T5ForConditionalGeneration(T5Config(vocab_size=20, **shape)))


class Foretelling(Net):
    """A model that foretells numbers, or sets of 0 and 1, as those of transformers do."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(24, outputs)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(torch.relu(self.first(pixel_values.flatten(1))))
        if labels is None:
            return {"logits": logits}
        if labels.ndim == 1:
            return {"loss": F.mse_loss(logits.squeeze(), labels.squeeze()), "logits": logits}
        return {"loss": F.binary_cross_entropy_with_logits(logits, labels), "logits": logits}


class Columns:
    """Rows with a column that no model reads, asked for one by one or in a batch, as `datasets.Dataset` gives them."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.column_names = [*rows[0], "note"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {**self.rows[number], "note": "not for the model"}

    def __getitems__(self, numbers: list[int]) -> list[dict[str, Any]]:
        return [self[number] for number in numbers]


@pytest.mark.parametrize(
    ("outputs", "label", "words", "metric"),
    [
        (1, lambda image: float(image.mean()), "squared error", "target_read"),
        (3, lambda image: (image[0, :3, 0] > 0.5).float(), "binary cross-entropy", "set_read"),
    ],
)
def test_a_head_for_numbers_or_sets_gives_example_and_target_back(
    tmp_path: Path, outputs: int, label: Any, words: str, metric: str
) -> None:
    rows = [{"pixel_values": one["pixel_values"], "labels": label(one["pixel_values"])} for one in pictures()]
    subject = load_subject(trainer(tmp_path, Foretelling(outputs), data=Columns(rows)), "train:trainer")
    assert f"loss: {words};" in subject.notes[0]
    finding = attacked(subject)
    assert finding.value.value == 1.0
    assert [victim.scores[0].values[metric] for victim in finding.victims] == [1.0, 1.0]


def without_data(folder: Path) -> Any:
    one = trainer(folder)
    one.train_dataset = None
    return one


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (lambda folder: trainer(folder).args, "gives the arguments of a Trainer alone. Return the Trainer itself."),
        (without_data, "has no train_dataset. Give it the client's data."),
        (lambda folder: trainer(folder, data=[]), "the train_dataset of the Trainer 'train:trainer' is empty. Give it"),
        (
            lambda folder: trainer(folder, data=[{"pixel_values": one["pixel_values"]} for one in pictures()]),
            "hold pixel_values, expected inputs and labels. Name the labels' column 'label' or 'labels'",
        ),
        (lambda folder: trainer(folder, nn.Linear(64, 4)), "hold labels, expected inputs and labels. .* columns that"),
        (lambda folder: trainer(folder, data=["a", "b"]), "cannot be put into batches: TypeError: .* must hold"),
        (lambda folder: (trainer(folder), [1]), "gives Trainer, list, expected only a Trainer with its own data and"),
        (of_two_sentences, "trains an encoder-decoder model. The audit supports classifiers and causal"),
        (lambda folder: trainer(folder, kind=Penalised), "it depends on more. Return .model, loss, loader., with"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, thing: Any, message: str) -> None:
    with pytest.raises(FedsimError, match=message) as raised:
        load_subject(thing(tmp_path), "train:trainer")
    assert "\n" not in str(raised.value)
