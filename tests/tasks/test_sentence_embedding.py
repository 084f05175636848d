"""Sentence embedding, against SciPy's rank correlation."""

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from fedsim.core.errors import FedsimError
from fedsim.core.types import Config, Dataset
from fedsim.tasks.sentence_embedding import SentenceEmbedding

TASK = SentenceEmbedding(Config())


def test_the_correlation_is_that_of_scipy(samples: dict[str, Dataset], says) -> None:
    data = samples["sentence-embedding"]
    vectors = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    figures = TASK.evaluate(says(vectors), data, torch.Generator())
    assert data.similarities is not None
    first, second = vectors[data.similarities.pairs.T]
    cosines = F.cosine_similarity(first.double(), second.double())
    expected = spearmanr(cosines.numpy(), data.similarities.scores.numpy()).statistic
    assert figures == {"test_spearman": pytest.approx(expected, abs=1e-12)}


def test_there_is_no_loss_without_labels() -> None:
    assert not TASK.has_labels
    with pytest.raises(FedsimError, match="a component must define the clients' loss"):
        TASK.losses(torch.zeros(2, 3), torch.zeros(2))
