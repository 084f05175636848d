"""Tagged sets: what becomes of words and tags."""

from hypothesis import given
from hypothesis import strategies as st

from fedsim.core.errors import FedsimError
from fedsim.core.nets.losses import IGNORED
from fedsim.data._tags import build_tagged_set
from fedsim.data._text import TokenConfig
from tests.data.tags import pairs

WORD = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=4)
SENTENCE = st.lists(st.tuples(WORD, st.sampled_from(["O", "B-a", "I-a"])), min_size=1, max_size=6)


@given(st.lists(SENTENCE, min_size=2, max_size=5, unique_by=lambda s: tuple(w for w, _ in s)), st.integers(2, 40))
def test_each_word_that_is_kept_has_one_label_at_its_first_token(
    sentences: list[list[tuple[str, str]]], length: int
) -> None:
    settings = TokenConfig(length=1000, tokenizer="bytes")
    whole = build_tagged_set(settings, [[tuple(sentence)] for sentence in sentences])
    read = [pairs(whole, batch, row) for batch in (whole.train, whole.test) for row in range(len(batch))]
    assert sorted(read) == sorted(sentences)
    try:
        cut = build_tagged_set(settings.model_copy(update={"length": length}), [[tuple(s)] for s in sentences])
    except FedsimError:
        return  # cut so short, all are the same
    assert whole.tokenizer is not None
    begun = [sum(len("".join(f" {w}" for w, _ in s[:n]).encode()) < length for n in range(len(s))) for s in sentences]
    kept = [int((row != IGNORED).sum()) for batch in (cut.train, cut.test) for row in batch.labels]
    assert all(count in begun for count in kept)
    assert len(kept) < len(begun) or sorted(kept) == sorted(begun)
