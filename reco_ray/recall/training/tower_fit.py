"""What the two-tower model learns from: targets of users' sequences, with the batch's other targets as negatives."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reco_ray.config import TwoTowerConfig
from reco_ray.recall.training.chunks import Chunk, Chunks, Held
from reco_ray.recall.training.examples import gather_history, targets_of
from reco_ray.recall.training.judging import judge
from reco_ray.recall.training.tower import TwoTower, sampled_softmax_loss

__all__ = ["TowerBatch", "TowerTrainee"]


@dataclass(frozen=True, slots=True, eq=False)
class TowerBatch:
    """Targets with their histories: rows, strengths and mask of shape (b, history), newest first; targets of shape (b,)."""

    rows: NDArray[np.int64]
    strengths: NDArray[np.float32]
    mask: NDArray[np.bool_]
    targets: NDArray[np.int64]


class TowerTrainee:
    """Contract of `epochs.Trainee`.

    Args:
        id_rows, content: inputs of the item tower, `two_tower.item_inputs`.
        history: longest history. items_return: whether an item that a user has had counts when an epoch is judged.
    """

    judged_by = "valid_recall50"

    def __init__(
        self,
        chunks: Chunks,
        id_rows: NDArray[np.int64],
        content: NDArray[np.float32],
        config: TwoTowerConfig,
        history: int,
        items_return: bool,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self._chunks, self._config, self._history = chunks, config, history
        self._items_return, self._seed, self._device = items_return, seed, device
        torch.manual_seed(seed)
        self.model = TwoTower(config, int(id_rows.max()), content.shape[1], history).to(device)
        self._id_rows, self._content = torch.tensor(id_rows, device=device), torch.tensor(content, device=device)
        counts, self._held = np.zeros(id_rows.size), list[Held]()
        for chunk in chunks():
            counts += np.bincount(chunk.rows[targets_of(chunk)], minlength=id_rows.size)
            self._held += chunk.held
        self._log_q = torch.from_numpy(np.log((counts + 1e-3) / (counts + 1e-3).sum())).float().to(device)

    def batches(self, epoch: int) -> Iterator[TowerBatch]:
        """Targets in a random order within each chunk."""
        rng = np.random.default_rng([self._seed, epoch])
        for chunk in self._chunks():
            order = rng.permutation(targets_of(chunk))
            for start in range(0, order.size, self._config.batch_size):
                positions = order[start : start + self._config.batch_size]
                yield TowerBatch(*gather_history(chunk, positions, self._history), chunk.rows[positions])

    def loss(self, batch: TowerBatch) -> tuple[Tensor, int]:
        """Sampled softmax over the batch; each distinct item passes through its tower once."""
        unique, inverse = np.unique(np.concatenate([batch.rows.ravel(), batch.targets]), return_inverse=True)
        at = self._tensor(unique)
        vectors = self.model.items(self._id_rows[at], self._content[at])[self._tensor(inverse)]
        past = vectors[: batch.rows.size].view(*batch.rows.shape, -1)
        users = self.model.users(past, self._tensor(batch.strengths), self._tensor(batch.mask))
        targets = self._tensor(batch.targets)
        log_q = self._log_q[targets]
        return sampled_softmax_loss(users, vectors[batch.rows.size :], targets, log_q, self._config.temperature), len(targets)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Judge by the held-out users."""
        if not self._held:
            return {}
        vectors = self.model.items(self._id_rows, self._content)
        ends = np.cumsum([held.rows.size for held in self._held], dtype=np.int64)
        rows, strengths = (np.concatenate(parts) for parts in zip(*((h.rows, h.strengths) for h in self._held), strict=True))
        chunk = Chunk(rows, strengths, np.concatenate([[0], ends]), ())
        users = []
        for start in range(0, ends.size, 1024):
            rows, strengths, mask = gather_history(chunk, ends[start : start + 1024], self._history)
            users.append(self.model.users(vectors[self._tensor(rows)], self._tensor(strengths), self._tensor(mask)))
        return judge(torch.cat(users), vectors, self._held, self._items_return)

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)
