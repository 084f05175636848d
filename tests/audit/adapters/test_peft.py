"""A model of peft is audited as it is: what is trainable is sent, under the names that its files have."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fedsim.audit import AuditPlan, Subject, auditing
from fedsim.audit.loading import load_subject
from fedsim.audit.subject import check_subject
from fedsim.core.errors import FedsimError
from fedsim.core.time_budget import TimeBudget
from fedsim.judgement.policy import Policy
from tests.audit.adapters.recovering import share


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 24)
        self.head = nn.Linear(24, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.first(images.flatten(1))))


def loader() -> DataLoader[Any]:
    source = torch.Generator().manual_seed(5)
    coarse = torch.rand(24, 1, 4, 4, generator=source)
    images = nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear")
    return DataLoader(TensorDataset(images, torch.randint(4, (24,), generator=source)), batch_size=8)


def of_images(config: Any) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(Net(), config)


def client(config: Any) -> tuple[Any, ...]:
    return of_images(config), nn.CrossEntropyLoss(), loader()


def language_model(config: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"n_embd": 24, "n_layer": 1, "n_head": 2, "n_positions": 32}
    return get_peft_model(GPT2LMHeadModel(GPT2Config(vocab_size=50, bos_token_id=0, eos_token_id=0, **shape)), config)


LORA = LoraConfig(target_modules=["head"], modules_to_save=["first"], r=2)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (LORA, "peft LoRA, 2 tensors of rank 2 and 2 saved whole are sent; base frozen"),
        (
            LoraConfig(target_modules=["first", "head"], r=8, use_dora=True),
            "peft DoRA, 6 tensors of rank 8 are sent; base frozen",
        ),
        (
            LoraConfig(target_modules=["first"], r=4, bias="all"),
            "peft LoRA, 2 tensors of rank 4 are sent; 2 tensors of the base are sent too",
        ),
        (
            IA3Config(target_modules=["first"], feedforward_modules=["first"]),
            "peft IA3, 1 tensor is sent; base frozen",
        ),
    ],
)
def test_one_line_says_what_is_sent(config: Any, line: str) -> None:
    subject = load_subject(client(config), "train:make")
    assert subject.notes[0] == f"Understood: {line}."
    trained = {name for name, p in subject.model.named_parameters() if p.requires_grad}
    assert set(subject.names.values()) == trained
    assert set(subject.names) == set(peft.get_peft_model_state_dict(subject.model))
    assert check_subject(subject, "train:make").dataset.spec.classes == 4


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft
def test_virtual_tokens_of_a_prompt_are_no_text() -> None:
    rows = [{"input_ids": row} for row in torch.randint(50, (12, 6), generator=torch.Generator().manual_seed(1))]
    model = language_model(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    subject = load_subject((model, None, DataLoader(rows, batch_size=4)), "train:make")  # type: ignore[arg-type]
    assert subject.notes[0] == "Understood: peft prompt tuning, 1 tensor is sent; base frozen."
    assert subject.names == {"prompt_embeddings": "prompt_encoder.default.embedding.weight"}
    sound = check_subject(subject, "train:make")
    batch = sound.dataset.train.select(torch.arange(2))
    assert sound.model(batch.inputs).shape == (*batch.labels.shape, 50)
    assert sound.loss(sound.model(batch.inputs), batch.labels).isfinite()


def test_one_example_comes_back_through_a_dense_layer_that_is_saved_whole() -> None:
    assert share(load_subject(client(LORA), "train:make")) == 1.0


def test_a_file_as_peft_names_its_tensors_is_an_update(tmp_path: Path) -> None:
    model, loss, data = client(LORA)
    images, labels = (tensor[:1] for tensor in next(iter(data)))
    loss(model(images), labels).backward()
    sent = peft.get_peft_model_state_dict(model)
    save_file({name: tensor.clone() for name, tensor in sent.items()}, tmp_path / "weights.safetensors")
    names = load_subject((model, loss, data), "train:make").names
    slopes = {name: model.get_parameter(names[name]).grad for name in sent}
    save_file(slopes, tmp_path / "update.safetensors")  # type: ignore[arg-type]
    assert "base_model.model.head.lora_A.weight" in slopes, "not lora_A.default.weight"
    plan = AuditPlan(
        target="train:make",
        batches=(1,),
        gradients=tmp_path / "update.safetensors",
        weights=tmp_path / "weights.safetensors",
    )
    record = auditing.run(load_subject((model, loss, data), "train:make"), plan, Policy(), tmp_path, TimeBudget(60.0))
    (arm,) = record.arms
    assert arm.recovered_share.value == 1.0


def frozen() -> Any:
    return of_images(LoraConfig(target_modules=["head"], inference_mode=True)), None, loader()


def merged() -> Any:
    model = of_images(LoraConfig(target_modules=["head"]))
    model.merge_adapter()
    return model, None, loader()


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (lambda: of_images(LORA), r"gives PeftModel, expected \(model, loss, loader\). Add the missing parts."),
        (lambda: client(LORA)[:2], r"gives PeftModel, CrossEntropyLoss, expected \(model, loss, loader\)"),
        (frozen, "is frozen, so a client would send nothing. Load it with PeftModel.from_pretrained"),
        (merged, r"is merged into '.*head', so it is not trained separately. Call model.unmerge_adapter\(\) first."),
    ],
)
def test_a_mistake_is_one_sentence(thing: Any, message: str) -> None:
    with pytest.raises(FedsimError, match=message) as raised:
        load_subject(thing(), "train:make")
    assert "\n" not in str(raised.value)


def test_a_subject_keeps_what_it_states_and_first_weights_of_lora_are_noted() -> None:
    subject = load_subject(Subject(of_images(LORA), None, loader(), learning_rate=0.3), "train:make")
    assert subject.learning_rate == 0.3
    assert subject.notes[1].startswith("Every lora_B is 0, as before the first round")
    model = of_images(LORA)
    with torch.no_grad():
        model.get_parameter("base_model.model.head.lora_B.default.weight").fill_(0.1)
    assert len(load_subject(Subject(model, None, loader()), "train:make").notes) == 1
