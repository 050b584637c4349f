"""What the heavy ranker learns from: whole groups, each a list to put in order."""

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from reco_ray.config import NeuralConfig
from reco_ray.rank.neural.groups import GroupBatch, Groups, Histories, lay_out, pack
from reco_ray.rank.neural.model import NeuralModel, listwise_loss

__all__ = ["NeuralTrainee", "Read"]

Read = Callable[[bool], Iterator[pl.DataFrame]]
"""Reads this worker's groups with a positive from the start, or the held-out ones, in the same order each time."""

_NDCG_AT = 10


class NeuralTrainee:
    """Contract of `recall.training.epochs.Trainee`.

    Args:
        sample: rows that the columns' means and deviations are taken of; the same in all workers.
        keys: of the items, ascending. vectors: of these, shape (n, v).
        stops_early: whether the held-out groups are enough to choose an epoch by (decision 0007).
    """

    def __init__(
        self,
        read: Read,
        sample: pl.DataFrame,
        keys: NDArray[np.uint64],
        vectors: NDArray[np.float32],
        histories: Histories,
        config: NeuralConfig,
        seed: int,
        stops_early: bool,
        device: str = "cpu",
    ) -> None:
        self._read, self._keys, self._histories, self._config = read, keys, histories, config
        self._seed, self._device = seed, device
        self.judged_by = "valid_ndcg10" if stops_early else "epochs_done"
        torch.manual_seed(seed)
        columns = pack(sample, keys, histories).features
        mean, inverse, gaps = (torch.from_numpy(each) for each in _moments(columns))
        self.model = NeuralModel(config, mean, inverse, gaps, vectors.shape[1]).to(device)
        padded = np.concatenate([vectors, np.zeros((1, vectors.shape[1]), np.float32)])
        self._vectors = torch.from_numpy(padded).to(device)
        self._kept: dict[bool, Groups] = {}

    def batches(self, epoch: int) -> Iterator[GroupBatch]:
        """Groups in a random order within each part of the training set that is read at once."""
        rng = np.random.default_rng([self._seed, epoch])
        for groups in self._groups(False):
            yield from self._parts(groups, rng.permutation(len(groups)))

    def loss(self, batch: GroupBatch) -> tuple[Tensor, int]:
        """`listwise_loss` over the groups."""
        labels, weights, there = map(self._tensor, (batch.labels, batch.weights, batch.there))
        return listwise_loss(self._scores(batch), labels, weights, there), len(batch.weights)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """NDCG@10 of the held-out groups, by their graded gains."""
        found: list[float] = []
        for groups in self._groups(True):
            for batch in self._parts(groups, np.arange(len(groups))):
                scores = self._scores(batch).float().cpu().numpy()
                found += [_ndcg(s[t], y[t]) for s, y, t in zip(scores, batch.labels, batch.there, strict=True)]
        return {"valid_ndcg10": float(np.mean(found))} if found else {}

    def _groups(self, held_out: bool) -> Iterator[Groups]:
        """A share that is read at once is kept."""
        if held_out in self._kept:
            yield self._kept[held_out]
            return
        parts = 0
        for frame in self._read(held_out):
            groups = pack(frame, self._keys, self._histories)
            parts += 1
            yield groups
        if parts == 1:
            self._kept[held_out] = groups

    def _parts(self, groups: Groups, order: NDArray[np.int64]) -> Iterator[GroupBatch]:
        for start in range(0, order.size, self._config.batch_groups):
            yield lay_out(groups, order[start : start + self._config.batch_groups], self._histories, self._keys.size)

    def _scores(self, batch: GroupBatch) -> Tensor:
        items, history = self._vectors[self._tensor(batch.items)], self._vectors[self._tensor(batch.history)]
        scores: Tensor = self.model(
            self._tensor(batch.features), items, history, self._tensor(batch.strengths), self._tensor(batch.had)
        )
        return scores

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _moments(columns: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Mean, 1 / deviation (0 for a column that is always the same) and whether values are missing, shape (F,) each."""
    there = np.isfinite(columns)
    n = np.maximum(there.sum(axis=0), 1)
    mean = np.where(there, columns, 0).sum(axis=0, dtype=np.float64) / n
    deviation = np.sqrt((np.where(there, columns - mean, 0) ** 2).sum(axis=0, dtype=np.float64) / n)
    varies = deviation > 1e-6 * np.maximum(np.abs(mean), 1)
    inverse = np.where(varies, 1 / np.where(varies, deviation, 1), 0)
    gaps = ~there.all(axis=0) & there.any(axis=0)
    return np.asarray(mean, np.float32), np.asarray(inverse, np.float32), np.asarray(gaps, np.float32)


def _ndcg(scores: NDArray[np.float32], labels: NDArray[np.float32]) -> float:
    discount = 1 / np.log2(np.arange(_NDCG_AT) + 2)
    gains = np.exp2(labels.astype(np.float64)) - 1
    best, ideal = gains[np.argsort(-scores, kind="stable")][:_NDCG_AT], np.sort(gains)[::-1][:_NDCG_AT]
    return float(best @ discount[: best.size]) / max(float(ideal @ discount[: ideal.size]), 1e-9)
