"""The heavy ranker in torch, for training; `forward` has the same pass in NumPy, for serving."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from reco_ray.config import NeuralConfig

__all__ = ["LIMIT", "NeuralModel", "listwise_loss"]

LIMIT = 5.0
"""Standard deviations from the mean at which a column's values end."""


class NeuralModel(nn.Module):
    """Crosses the ranker's columns with each other and with what the candidate has in common with the user's newest items.

    Attention of the candidate over these items, by their vectors, how far back they lie and how strong they were; then low-rank
    cross layers beside a deep part.

    Args:
        mean, inverse: of each column and of its deviation, 0 for one that is always the same, shape (F,).
        gaps: 1 for a column with missing values, shape (F,); of these it sees whether they are there.
        vector_size: of the items' vectors; with 0 there is no attention.
    Reference: Wang et al. 2021, DCN V2; Zhou et al. 2018, Deep Interest Network.
    """

    mean: Tensor
    inverse: Tensor

    def __init__(self, config: NeuralConfig, mean: Tensor, inverse: Tensor, gaps: Tensor, vector_size: int) -> None:
        super().__init__()
        d = config.embedding_size if vector_size else 0
        for name, values in (("mean", mean), ("inverse", inverse), ("gaps", gaps)):
            self.register_buffer(name, values)
        self._missing = torch.nonzero(gaps)[:, 0].tolist()
        if d:
            self.item = nn.Linear(vector_size, d)
            self.ask = nn.Linear(d, d)
            self.key = nn.Linear(d, d)
            self.lag_bias = nn.Parameter(torch.zeros(config.history))
            self.strength_scale = nn.Parameter(torch.ones(1))
        width = mean.numel() + len(self._missing) + 3 * d
        self.narrow = nn.ModuleList(nn.Linear(width, config.cross_rank, bias=False) for _ in range(config.cross_layers))
        self.wide = nn.ModuleList(nn.Linear(config.cross_rank, width) for _ in range(config.cross_layers))
        sizes = (width, config.hidden_size, config.hidden_size // 2)
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.out = nn.Linear(width + sizes[-1], 1)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: Tensor, items: Tensor, history: Tensor, strengths: Tensor, there: Tensor) -> Tensor:
        """Scores, shape (b, c).

        Args:
            features: NaN where missing, shape (b, c, F). items: vectors of the candidates, shape (b, c, v).
            history: vectors of the user's items, the newest first, shape (b, h, v). strengths: shape (b, h).
            there: which of these are no padding, shape (b, h).
        """
        missing = torch.isnan(features)
        x = ((features - self.mean) * self.inverse).masked_fill(missing, 0).clamp(-LIMIT, LIMIT)
        parts = [x, missing[..., self._missing].to(x.dtype)]
        if items.shape[-1]:
            candidate, past = self.item(items), self.item(history)
            likeness = self.ask(candidate) @ self.key(past).transpose(1, 2) / candidate.shape[-1] ** 0.5
            bias = self.lag_bias[: history.shape[1]] + self.strength_scale * strengths
            likeness = (likeness + bias[:, None, :]).masked_fill(~there[:, None, :], -1e9)
            interest = (likeness.softmax(dim=-1) @ past) * there.any(dim=1)[:, None, None]
            parts += [self.dropout(candidate), self.dropout(interest), self.dropout(candidate * interest)]
        first = x = torch.cat(parts, dim=-1)
        for narrow, wide in zip(self.narrow, self.wide, strict=True):
            x = first * wide(narrow(x)) + x
        deep = first
        for layer in self.hidden:
            deep = self.dropout(functional.relu(layer(deep)))
        scores: Tensor = self.out(torch.cat([x, deep], dim=-1)).squeeze(-1)
        return scores


def listwise_loss(scores: Tensor, labels: Tensor, weights: Tensor, there: Tensor) -> Tensor:
    """Softmax over each group's candidates against the shares of their gains (2^label - 1), mean over the groups.

    Args:
        scores, labels, there: shape (b, c); groups without a positive count nothing. weights: of the groups, shape (b,).
    Reference: Cao et al. 2007, Learning to Rank: From Pairwise Approach to Listwise Approach.
    """
    gains = (torch.exp2(labels) - 1) * there
    shares = gains / gains.sum(dim=1, keepdim=True).clamp(min=1e-9)
    logs = scores.float().masked_fill(~there, -1e9).log_softmax(dim=1)
    return (-(shares * logs).sum(dim=1) * weights).mean()
