"""Texts and maps of devil: against the language model read whole, planted features, and parts that must not matter."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.components.probe import devil as own
from fedsim.components.probe.devil import Devil, DevilConfig, Language, ShownLayers
from fedsim.core.errors import FedsimError, NotApplicable
from tests.components.generating import tiny_llama

END, BEGIN = 10, 11
SETTINGS = {"width": 16, "blocks": 1, "heads": 2, "prompts": 2, "batch": 16, "rate": 1e-2}


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def language() -> Language:
    return Language(tiny_llama(vocabulary=12).float().train(), BEGIN)


def method(**settings: Any) -> Devil:
    return Devil(DevilConfig(**{**SETTINGS, "steps": 5, **settings}))


def features(count: int = 8) -> list[Tensor]:
    return [torch.randn(count, 3, 4, 4, generator=source(1)), torch.randn(count, 5, 2, 2, generator=source(2))]


def captions(count: int = 8) -> list[list[int]]:
    return [[row % 5, END] if row % 2 else [row % 5, 3, 4, END] for row in range(count)]


def trained(told: Language, **settings: Any) -> Any:
    made = method(**settings)
    translator = made.make_translator([3, 5], 16, source())
    made.train(translator, told, features(), captions(), source(3))
    return translator.eval()


def test_a_prompt_stands_behind_the_beginning_and_before_the_text() -> None:
    told = language()
    told.model.eval()
    text, prompt = torch.tensor([[1, 2, 3]]), torch.tensor([[7, 8]])
    stack = told.model.stack()  # type: ignore[operator]
    found = own._scores(told, stack.embed(prompt), text)
    whole = told.model(torch.tensor([[BEGIN, 7, 8, 1, 2, 3]]))[:, 2:]
    torch.testing.assert_close(found, whole)


def test_costs_are_means_over_the_text_alone() -> None:
    told = language()
    told.model.eval()
    prompt = torch.randn(2, 2, 16, generator=source())
    texts = [[1, 2, 3, END], [4, END]]
    together = own._costs(told, prompt, texts)
    for row, text in enumerate(texts):
        alone = own._costs(told, prompt[row : row + 1], [text])
        torch.testing.assert_close(together[row : row + 1], alone)
        scores = own._scores(told, prompt[row : row + 1], torch.tensor([text[:-1]]))[0].log_softmax(-1)
        torch.testing.assert_close(alone[0], -scores[range(len(text)), text].mean())
    of_all = own._costs(told, prompt, texts, mean_of_all=True)
    torch.testing.assert_close(of_all, (4 * together[0] + 2 * together[1]) / 6)


@pytest.mark.paper_step("devil", "training with places and layers left out")
def test_only_the_translator_learns() -> None:
    told = language()
    before = {name: tensor.clone() for name, tensor in told.model.state_dict().items()}
    made = method(steps=20)
    translator = made.make_translator([3, 5], 16, source())
    first = {name: tensor.clone() for name, tensor in translator.named_parameters()}
    costs = made.train(translator, told, features(), captions(), source(3))
    assert all(torch.equal(before[name], tensor) for name, tensor in told.model.state_dict().items())
    assert told.model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in told.model.parameters())
    assert all(not torch.equal(first[name], tensor) for name, tensor in translator.named_parameters())
    assert sum(costs[-5:]) < sum(costs[:5])


@pytest.mark.paper_step("devil", "text of a single place")
def test_a_text_of_a_place_depends_on_its_vector_alone() -> None:
    told = language()
    translator = trained(told)
    first, second = features(2), [torch.randn_like(part) for part in features(2)]
    second[0][:, :, 1, 2] = first[0][:, :, 1, 2]
    maps = [own.map_phrase(translator, told, some, [0], [3, 4]) for some in (first, second)]
    assert maps[0].shape == (2, 4, 4)
    torch.testing.assert_close(maps[0][:, 1, 2], maps[1][:, 1, 2])
    assert not torch.allclose(maps[0], maps[1], atol=1e-3)
    place = ShownLayers(
        [some[:, :, 1, 2] if some.shape[-1] == 4 else some.mean((2, 3)) for some in first],
        torch.tensor([[True, False]] * 2),
    )
    torch.testing.assert_close(-own.cost_of(translator, told, place, [3, 4]), maps[0][:, 1, 2])


def test_all_layers_share_the_finest_grid() -> None:
    seen, grid = own.see_places([torch.arange(4.0).view(1, 1, 2, 2), torch.full((1, 1, 1, 1), 7.0)], [0, 1])
    assert grid == (2, 2)
    assert seen.vectors[0][:, 0].tolist() == [0, 1, 2, 3]
    assert seen.vectors[1][:, 0].tolist() == [7] * 4
    assert seen.is_shown.all()
    assert own.see_places(features(3), [1])[1] == (2, 2)


class Echo(nn.Module):
    """Gives the embedding of fixed tokens as the prompt."""

    def __init__(self, told: Language) -> None:
        super().__init__()
        self.told = told

    def forward(self, vectors: list[Tensor], is_shown: Tensor) -> Tensor:
        return self.told.model.stack().embed(vectors[0].long())  # type: ignore[operator]


def test_the_likeliest_text_is_written_up_to_its_end() -> None:
    told = language()
    told.model.eval()
    prompts = torch.tensor([[7, 8], [1, 2], [9, 0]])
    by_hand = []
    for prompt in prompts:
        text = [BEGIN, *prompt.tolist()]
        for _ in range(6):
            text.append(int(told.model(torch.tensor([text]))[0, -1].argmax()))
        by_hand.append(text[3:])
    end = by_hand[0][2]  # so at least one text ends early
    stopped = [text[: text.index(end)] if end in text else text for text in by_hand]
    seen = ShownLayers([prompts], torch.ones(3, 1, dtype=torch.bool))
    translator: Any = Echo(told)
    assert own.write(translator, told, seen, end, limit=6) == stopped
    assert any(len(text) < 6 for text in stopped)


@pytest.mark.paper_step("devil", "open-vocabulary saliency map")
def test_a_phrase_is_found_in_its_cell() -> None:
    # a cell's vector says its digit, one-hot; a caption names one of the image's four digits
    told, count = Language(own._Names(torch.randn(12, 16, generator=source(9))), BEGIN), 400
    digits = torch.stack([torch.randperm(10, generator=source(row))[:4] for row in range(count)])
    cells = nn.functional.one_hot(digits, 10).float().transpose(1, 2).view(count, 10, 2, 2)
    named = [[int(row[number % 4])] for number, row in enumerate(digits)]
    made = method(steps=200, width=32, rate=1e-3, batch=32, hidden_layers=0.0)
    translator = made.make_translator([10], 16, source())
    made.train(translator, told, [cells], named, source(3))
    translator.eval()
    maps = torch.stack([own.map_phrase(translator, told, [cells[:50]], [0], [word]) for word in range(10)], 1)
    for shown, row in zip(maps, digits[:50].tolist(), strict=True):
        assert [int(shown[word].flatten().argmax()) for word in row] == [0, 1, 2, 3]
    alone = ShownLayers([torch.eye(10)], torch.ones(10, 1, dtype=torch.bool))
    assert own.write(translator, told, alone, END, limit=1) == [[word] for word in range(10)]
    assert own.next_scores(translator, told, alone).argmax(1).tolist() == list(range(10))


def test_mistakes_are_named() -> None:
    told = language()
    for layers, message in (
        ([2], "layer 2 does not exist: features have layers 0 to 1"),
        ([], "layer none does not exist"),
    ):
        with pytest.raises(FedsimError, match=message):
            own.see_whole(features(), layers)
    made = method()
    with pytest.raises(NotApplicable, match=r"found 7 captions and features of \[8, 8\] images"):
        made.train(made.make_translator([3, 5], 16, source()), told, features(), captions(7), source())
    with pytest.raises(NotApplicable, match="cannot find the layers of this language model"):
        own.cost_of(trained(told), Language(nn.Linear(2, 2), 0), own.see_whole(features(), [0]), [1])
