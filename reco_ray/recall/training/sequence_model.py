"""The next-item model in torch, for training; `sources.sequential` has the same forward pass in NumPy, for serving."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from reco_ray.config import SequentialConfig

__all__ = ["SequenceModel", "next_item_loss"]


class SequenceModel(nn.Module):
    """Self-attention and a short causal convolution side by side over the items so far; says what comes next.

    The attention sees what was taken by how far back it lies (a learnt bias per head and lag), never at which absolute place,
    so that a window cut out of a history means what the whole would. The convolution sees the newest few in their order.

    Args:
        n_items: rows of the item table; row 0 stands for padding and unknown items. length: longest input.
    Reference: Kang and McAuley 2018, Self-Attentive Sequential Recommendation; Petrov and Macdonald 2023, gSASRec; Shin et al.
        2024, BSARec (attention beside a filter over time); Raffel et al. 2020 (bias by lag).
    """

    def __init__(self, config: SequentialConfig, n_items: int, length: int) -> None:
        super().__init__()
        d = config.embedding_size
        self.item = nn.Embedding(n_items + 1, d, padding_idx=0)
        self.blocks = nn.ModuleList(_Block(config, length) for _ in range(config.layers))
        self.norm = nn.LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)
        self._item_dropout = config.item_dropout
        nn.init.normal_(self.item.weight, std=d**-0.5)
        with torch.no_grad():
            self.item.weight[0] = 0

    def forward(self, rows: Tensor) -> Tensor:
        """Unit vectors of what comes after each place, shape (b, l, d); ``rows`` (b, l) oldest first, then 0."""
        if self.training and self._item_dropout:
            rows = rows.masked_fill(torch.rand(rows.shape, device=rows.device) < self._item_dropout, 0)
        x = self.dropout(self.item(rows) * math.sqrt(self.item.embedding_dim))
        for block in self.blocks:
            x = block(x)
        return functional.normalize(self.norm(x), dim=-1)

    def vectors(self, rows: Tensor) -> Tensor:
        """Unit vectors of items by table row, shape (n, d)."""
        return functional.normalize(self.item(rows), dim=-1)


class _Block(nn.Module):
    def __init__(self, config: SequentialConfig, length: int) -> None:
        super().__init__()
        d = config.embedding_size
        self.heads, self.kernel = config.heads, config.kernel
        self.before = nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d)
        self.attended = nn.Linear(d, d)
        self.lag_bias = nn.Parameter(torch.zeros(config.heads, length))
        self.recent = nn.Parameter(torch.zeros(config.kernel, d))
        self.between = nn.LayerNorm(d)
        self.wide = nn.Linear(d, config.hidden_size)
        self.narrow = nn.Linear(config.hidden_size, d)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        h = self.before(x)
        q, k, v = (part.view(b, n, self.heads, -1).transpose(1, 2) for part in self.qkv(h).chunk(3, dim=-1))
        lag = torch.arange(n, device=x.device)[:, None] - torch.arange(n, device=x.device)[None, :]
        bias = self.lag_bias[:, lag.clamp(min=0)].masked_fill(lag < 0, -torch.inf)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype).unsqueeze(0))
        mixed = self.attended(mixed.transpose(1, 2).reshape(b, n, d))
        past = functional.pad(h, (0, 0, self.kernel - 1, 0))
        for back in range(self.kernel):
            at = self.kernel - 1 - back
            mixed = mixed + past[:, at : at + n] * self.recent[back]
        x = x + self.dropout(mixed)
        wide = functional.gelu(self.wide(self.between(x)), approximate="tanh")
        out: Tensor = x + self.dropout(self.narrow(self.dropout(wide)))
        return out


def next_item_loss(
    states: Tensor,
    targets: Tensor,
    negatives: Tensor,
    target_rows: Tensor,
    negative_rows: Tensor,
    log_q: Tensor,
    temperature: float,
) -> Tensor:
    """Softmax over the target and shared sampled negatives; logQ is taken off the negatives alone.

    A negative stands for 1 / (m q) items of its kind; the target is there by itself and stands for one.

    Args:
        states: shape (t, d). targets: vectors of the items that came next, shape (t, d). negatives: shape (m, d).
        target_rows, negative_rows: their item rows; a negative that is the target is left out.
        log_q: log of each negative's probability in one draw, shape (m,).
    Reference: Bengio and Senecal 2008, Adaptive Importance Sampling; Khrylchenko et al. 2025, Correcting the LogQ Correction.
    """
    positive = (states * targets).sum(dim=1, keepdim=True) / temperature
    others = states @ negatives.T / temperature - (log_q + math.log(len(negatives)))
    others = others.masked_fill(target_rows[:, None] == negative_rows[None, :], -torch.inf)
    return (torch.logsumexp(torch.cat([positive, others], dim=1), dim=1) - positive.squeeze(1)).mean()
