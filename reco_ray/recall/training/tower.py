"""The two-tower model in torch, for training; `sources.two_tower` has the same forward pass in NumPy, for serving."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from reco_ray.config import TwoTowerConfig

__all__ = ["TwoTower", "sampled_softmax_loss"]


class TwoTower(nn.Module):
    """Item tower over (id row, content); user tower over the item vectors of a history.

    Args:
        n_ids: items with an id embedding; row 0 stands for all others.
        n_content: content columns. history: longest history.
    """

    def __init__(self, config: TwoTowerConfig, n_ids: int, n_content: int, history: int) -> None:
        super().__init__()
        d, h = config.embedding_size, config.hidden_size
        self.item_id = nn.Embedding(n_ids + 1, d)
        self.item_hidden = nn.Linear(d + n_content, h)
        self.item_out = nn.Linear(h, d)
        self.user_hidden = nn.Linear(2 * d, h)
        self.user_out = nn.Linear(h, d)
        self.attention = nn.Parameter(torch.zeros(d))
        self.strength_scale = nn.Parameter(torch.ones(()))
        self.lag_bias = nn.Parameter(torch.linspace(0, -1, history))
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.item_id.weight, std=d**-0.5)

    def items(self, id_rows: Tensor, content: Tensor) -> Tensor:
        """Unit item vectors, shape (n, d). While training some ids are hidden, so that content learns to stand alone."""
        if self.training:
            id_rows = torch.where(torch.rand(id_rows.shape, device=id_rows.device) < 0.1, torch.zeros_like(id_rows), id_rows)
        identity = self.item_id(id_rows)
        hidden = torch.relu(self.item_hidden(torch.cat([identity, content], dim=1)))
        return functional.normalize(identity + self.item_out(self.dropout(hidden)), dim=1)

    def users(self, vectors: Tensor, strengths: Tensor, mask: Tensor) -> Tensor:
        """Unit user vectors, shape (q, d).

        Args:
            vectors: of the history, newest first, padded at the end, shape (q, h, d).
            strengths, mask: shape (q, h); mask is true where there is an event.
        """
        logits = vectors @ self.attention + self.strength_scale * strengths + self.lag_bias[: strengths.shape[1]]
        share = torch.softmax(logits.masked_fill(~mask, -torch.inf), dim=1)
        pooled = (share.unsqueeze(2) * vectors).sum(dim=1)
        hidden = torch.relu(self.user_hidden(torch.cat([pooled, vectors[:, 0]], dim=1)))
        return functional.normalize(pooled + self.user_out(self.dropout(hidden)), dim=1)


def sampled_softmax_loss(users: Tensor, items: Tensor, target_rows: Tensor, log_q: Tensor, temperature: float) -> Tensor:
    """In-batch sampled softmax with logQ correction: the other targets of the batch are the negatives.

    Args:
        users, items: unit vectors, shape (b, d), matching row by row.
        target_rows: catalogue row of each target, shape (b,); equal targets are no negatives of each other.
        log_q: log of each target's sampling probability (its share of the training targets), shape (b,).
    Reference: Yi et al. 2019, Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations.
    """
    logits = users @ items.T / temperature - log_q.unsqueeze(0)
    same = target_rows.unsqueeze(0) == target_rows.unsqueeze(1)
    same.fill_diagonal_(False)
    return functional.cross_entropy(logits.masked_fill(same, -torch.inf), torch.arange(len(users), device=users.device))
