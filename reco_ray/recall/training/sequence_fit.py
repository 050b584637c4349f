"""What the next-item model learns from: every place of every window, against sampled items."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reco_ray.config import SequentialConfig
from reco_ray.recall.training.chunks import POSITIVE, Chunks, Held
from reco_ray.recall.training.judging import judge
from reco_ray.recall.training.sequence_model import SequenceModel, next_item_loss
from reco_ray.recall.training.sequences import NegativeSampler, batches, cut_windows, lay_out

__all__ = ["SequenceBatch", "SequenceTrainee"]


@dataclass(frozen=True, slots=True, eq=False)
class SequenceBatch:
    """Windows as `sequences.lay_out` gives them, shape (b, l), and the table rows of the negatives, shape (m,)."""

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    counts: NDArray[np.bool_]
    negatives: NDArray[np.int64]


class SequenceTrainee:
    """Contract of `epochs.Trainee`.

    Args:
        n_items: of the catalogue; table row = catalogue row + 1.
        length: longest history. items_return: whether an item that a user has had counts when an epoch is judged.
    """

    judged_by = "valid_ndcg10"

    def __init__(
        self,
        chunks: Chunks,
        n_items: int,
        config: SequentialConfig,
        length: int,
        items_return: bool,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self._chunks, self._n_items, self._config, self._length = chunks, n_items, config, length
        self._items_return, self._seed, self._device = items_return, seed, device
        torch.manual_seed(seed)
        self.model = SequenceModel(config, n_items, length).to(device)
        counts, self._held = np.zeros(n_items), list[Held]()
        for chunk in chunks():
            counts += np.bincount(chunk.rows[chunk.strengths >= POSITIVE], minlength=n_items)
            self._held += chunk.held
        self._sampler = NegativeSampler(counts)
        self._log_q = torch.from_numpy(self._sampler.log_share).to(device)

    def batches(self, epoch: int) -> Iterator[SequenceBatch]:
        """Windows by length, in a random order within each chunk."""
        rng = np.random.default_rng([self._seed, epoch])
        for chunk in self._chunks():
            windows = cut_windows(chunk, self._length)
            for which in batches(windows, self._config.batch_targets, rng):
                inputs, targets, counts = lay_out(chunk, windows, which)
                if counts.any():
                    yield SequenceBatch(inputs, targets, counts, self._sampler.draw(self._config.negatives, rng) + 1)

    def loss(self, batch: SequenceBatch) -> tuple[Tensor, int]:
        """`next_item_loss` over the places that count."""
        states = self.model(self._tensor(batch.inputs))[self._tensor(batch.counts)]
        targets, negatives = self._tensor(batch.targets[batch.counts]), self._tensor(batch.negatives)
        log_q = self._log_q[negatives - 1]
        vectors = self.model.vectors
        loss = next_item_loss(states, vectors(targets), vectors(negatives), targets, negatives, log_q, self._config.temperature)
        return loss, len(targets)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Judge by the held-out users."""
        if not self._held:
            return {}
        lengths = np.minimum([held.rows.size for held in self._held], self._length)
        users = torch.empty(len(self._held), self._config.embedding_size, device=self._device)
        order = np.argsort(lengths, kind="stable")
        for start in range(0, order.size, 512):
            part = order[start : start + 512]
            rows = np.zeros((part.size, int(lengths[part].max())), np.int64)
            for i, user in enumerate(part):
                rows[i, : lengths[user]] = self._held[user].rows[-lengths[user] :] + 1
            states = self.model(self._tensor(rows))
            users[self._tensor(part)] = states[torch.arange(part.size), self._tensor(lengths[part] - 1)]
        items = self.model.vectors(torch.arange(1, self._n_items + 1, device=self._device))
        return judge(users, items, self._held, self._items_return)

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)
