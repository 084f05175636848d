"""LLaVA of the transformers package, small and with random weights: the package's own forward pass is the oracle."""

from pathlib import Path

import pytest
import torch

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import GenerationInputs
from fedsim.core.nets.visual import visual_passes
from fedsim.core.types import Limits
from fedsim.generation import generate

transformers = pytest.importorskip("transformers")

from fedsim.models.llava import Llava, load_llava  # noqa: E402

IMAGE, PATCHES = 30, 16


@pytest.fixture(scope="module")
def model() -> Llava:
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, image_size=8, patch_size=2
    )
    text = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=2,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=IMAGE, vision_feature_layer=-2
    )
    with seeding.isolate_randomness(0):
        own = transformers.LlavaForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
        for one in own.parameters():
            if one.ndim > 1:
                torch.nn.init.normal_(one, std=0.3)
    return Llava(own.double())


def asked(count: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 8, 8, generator=source).double()
    words = torch.randint(3, 29, (count, 7), generator=source)
    question = torch.cat((words[:, :2], torch.full((count, PATCHES), IMAGE), words[:, 2:6]), 1)
    return images, question, words[:, 6:]


def with_reducer(model: Llava, name: str, **settings: object) -> None:
    method = registry.get("component", name)
    del model.reducers[:]
    method.make(method.config.model_validate(settings)).with_name(name).prepare(model, torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_loop_is_the_packages_forward_pass(model: Llava) -> None:
    images, question, answer = asked()
    whole = model.own(input_ids=torch.cat((question, answer), 1), pixel_values=images).logits[:, -2:]
    near = {"rtol": 1e-4, "atol": 1e-5}  # the package's softmax is of single precision
    torch.testing.assert_close(model(images, question, answer), whole, **near)
    read = model.begin(model.encode(images, question), question)
    torch.testing.assert_close(torch.stack((read.scores, model.follow(read, answer[:, 0])), 1), whole, **near)


@torch.no_grad()
@pytest.mark.parametrize("name", ["keep-all", "random-tokens", "cls-topk", "attention-topk"])
def test_the_reducers_act_between_its_layers(model: Llava, name: str) -> None:
    images, question, answer = asked()
    with_reducer(model, name, **({} if name == "keep-all" else {"kept": 5}))
    with visual_passes(model) as passes:
        whole = model(images, question, answer)
        read = model.begin(model.encode(images, question), question)
        torch.testing.assert_close(torch.stack((read.scores, model.follow(read, answer[:, 0])), 1), whole)
    assert passes[0].visual[-1] == [PATCHES if name == "keep-all" else 5] * 3
    del model.reducers[:]


@torch.no_grad()
def test_attention_on_demand_is_the_packages(model: Llava) -> None:
    images, question, _ = asked()
    seen = model.own(input_ids=question, pixel_values=images, output_attentions=True)
    tower = model.own.model.vision_tower(images, output_attentions=True)
    kept = {"cls-topk": tower.attentions[1], "attention-topk": seen.attentions[2]}
    for name, weights in kept.items():
        with_reducer(model, name, kept=5)
        with visual_passes(model) as passes:
            model(images, question)
        row = weights[:, :, 0, 1:] if name == "cls-topk" else weights[:, :, -1, 2 : 2 + PATCHES]
        assert torch.equal(passes[0].patches[3], row.mean(1).topk(5).indices.sort().values)
        del model.reducers[:]


@torch.no_grad()
def test_rows_of_attention_are_those_of_the_whole(model: Llava) -> None:
    images, question, _ = asked()
    stream = model.sequence(model.encode(images, question), question)
    for view in (model.vision().view(1), model.language().view(1)):
        own = stream.keep(torch.tensor([[1, 4, 9]] * 3))
        whole = view.attention(own)
        torch.testing.assert_close(view.attention(own, slice(2, 5)), whole[:, :, 2:5])
        assert not torch.allclose(whole[:, :, 2:5], whole[:, :, 1:4])


def test_prompts_that_do_not_fit_are_named(model: Llava) -> None:
    images, question, _ = asked()
    unequal = question.clone()
    unequal[1, 2] = 5
    with pytest.raises(
        FedsimError, match="prompts of a batch hold unequal numbers of image tokens, .15, 16.: expected 16"
    ):
        model(images, unequal)
    with pytest.raises(FedsimError, match="a prompt holds 0 image tokens"):
        model(images, question[:, :2])
    with pytest.raises(FedsimError, match="reads images of 8 x 8 pixels"):
        model(images[..., :6], question)


def test_a_folder_is_loaded(model: Llava, tmp_path: Path) -> None:
    model.own.save_pretrained(tmp_path)
    images, question, answer = asked()
    loaded = load_llava(tmp_path).double()
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(images, question, answer), model(images, question, answer), rtol=1e-5, atol=1e-5
        )  # weights are loaded in single precision
    with pytest.raises(FedsimError, match="cannot be loaded"):
        load_llava(tmp_path / "nothing")


def test_a_decoder_contrasts_branches_of_it(model: Llava) -> None:
    images, question, _ = asked()
    del model.reducers[:]
    method = registry.get("component", "damro")
    prompts = GenerationInputs(tuple(map(tuple, question.tolist())), {"image": images})

    def written(**settings: float) -> list[tuple[int, ...]]:
        own = method.make(method.config.model_validate(settings))
        sources = seeding.generators(0, "test", [(number,) for number in range(3)])
        texts = generate(own, model, prompts, Limits(max_new_tokens=4, stop_tokens=frozenset({model.end})), sources)
        return [one.tokens for one in texts]

    plain = model.answers(images, question, 4)
    for found in (written(strength=0.0), written(outliers=PATCHES, strength=3.0)):
        assert [tuple(token for token in own if token != model.end) for own in found] == plain
    assert written(strength=3.0, cutoff=0.0) != written(strength=0.0)
