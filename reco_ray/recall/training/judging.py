"""How good the vectors of an epoch are: the held-out items against the whole catalogue, never against a sample of it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from reco_ray.recall.training.chunks import Held

__all__ = ["judge"]

_USERS_AT_ONCE = 256
_RECALL_AT, _NDCG_AT = 50, 10


@torch.no_grad()
def judge(users: Tensor, items: Tensor, held: Sequence[Held], items_return: bool) -> dict[str, float]:
    """Recall@50 and NDCG@10, means over the users; nothing when there are none.

    Args:
        users: vectors of the judging users, shape (u, d). items: vectors of all items, shape (n, d).
        items_return: whether finding an item again that a user has had counts; otherwise what was had is left out.
    """
    recalls, gains = [], []
    discount = 1 / np.log2(np.arange(_NDCG_AT) + 2)
    for start in range(0, len(held), _USERS_AT_ONCE):
        part = held[start : start + _USERS_AT_ONCE]
        scores = users[start : start + len(part)] @ items.T
        if not items_return:
            owner = np.repeat(np.arange(len(part)), [h.rows.size for h in part])
            scores[torch.from_numpy(owner), torch.from_numpy(np.concatenate([h.rows for h in part]))] = -torch.inf
        best = scores.topk(min(_RECALL_AT, scores.shape[1])).indices.cpu().numpy()
        for found, user in zip(best, part, strict=True):
            hits = np.isin(found, user.targets)
            recalls.append(hits.sum() / user.targets.size)
            top = hits[:_NDCG_AT]
            gains.append(top @ discount[: top.size] / discount[: min(user.targets.size, _NDCG_AT)].sum())
    if not recalls:
        return {}
    return {"valid_recall50": float(np.mean(recalls)), "valid_ndcg10": float(np.mean(gains))}
