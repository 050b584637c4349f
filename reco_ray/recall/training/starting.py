"""Setting a torch model to the weights that it starts from."""

import torch
from torch import nn

from reco_ray.recall.warm import Start

__all__ = ["set_start"]


def set_start(model: nn.Module, start: Start) -> float:
    """Copy what fits; returns the share of the model's numbers that were copied."""
    taken = total = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            total += parameter.numel()
            if name == start.table and parameter.shape == start.rows.shape:
                known = torch.from_numpy(start.known.copy()).to(parameter.device)
                parameter[known] = torch.from_numpy(start.rows.copy()).to(parameter.device)[known]
                taken += int(start.known.sum()) * parameter.shape[1]
            elif (given := start.weights.get(name)) is not None and given.shape == tuple(parameter.shape):
                parameter.copy_(torch.from_numpy(given.copy()))
                taken += parameter.numel()
    return taken / max(1, total)
