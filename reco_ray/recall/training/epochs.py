"""The one training loop of the embedding models: epochs that stop early, resume, and share their gradients over workers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Schedule", "State", "Trainee", "fit_epochs"]

State = dict[str, Any]
"""What a checkpoint holds: ``model``, ``optimizer``, ``best_model`` (state dicts), ``best`` and ``best_epoch`` by the
judged metric, ``epochs`` (metrics of each)."""

Batch = TypeVar("Batch")


class Trainee(Protocol[Batch]):
    """A model and the data it learns from."""

    model: nn.Module
    judged_by: str

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the minibatches of an epoch; everything random in them hangs on the seed and the epoch."""

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Return the mean loss over the batch's targets, and their number, at least 1."""

    def validate(self) -> dict[str, float]:
        """Return the metrics of this worker's held-out users, ``judged_by`` among them; nothing when it has none."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train; ``name`` is the group of the configuration that messages point to."""

    name: str
    epochs: int
    patience: int
    learning_rate: float
    weight_decay: float
    seed: int


def fit_epochs(
    trainee: Trainee[Batch], schedule: Schedule, state: State | None, on_epoch: Callable[[State, bool], None]
) -> State:
    """Train until the judged metric has not grown for ``patience`` epochs; a resumed run equals an undisturbed one.

    On a GPU the forward pass runs in bfloat16. Without any held-out user the last epoch counts as the best.

    Args:
        state: of the last finished epoch, to go on from; None starts anew.
        on_epoch: called after each epoch in every worker, with the state to store, and whether it is the last.
    Raises: FloatingPointError: the loss is not finite.
    """
    model = trainee.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    if state is None:
        state = {"epochs": [], "best_model": None, "best": -1.0, "best_epoch": 0}
    else:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    while not _finished(state["epochs"], trainee.judged_by, schedule):
        epoch = len(state["epochs"])
        torch.manual_seed(schedule.seed * 1_000 + epoch)
        loss = _epoch(trainee, optimizer, epoch, schedule)
        model.eval()
        judged = _mean_over_workers(trainee.validate())
        value = judged.get(trainee.judged_by, float(epoch))
        if value > state["best"]:
            state["best"], state["best_epoch"] = value, epoch
            state["best_model"] = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        state["epochs"].append({"epoch": epoch, "loss": loss, trainee.judged_by: value, **judged})
        state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        on_epoch(state, _finished(state["epochs"], trainee.judged_by, schedule))
    return state


def _finished(epochs: list[dict[str, float]], judged_by: str, schedule: Schedule) -> bool:
    values = [e[judged_by] for e in epochs]
    stale = len(values) - 1 - int(np.argmax(values)) if values else 0
    return len(epochs) >= schedule.epochs or stale >= schedule.patience


def _epoch(trainee: Trainee[Batch], optimizer: torch.optim.Optimizer, epoch: int, schedule: Schedule) -> float:
    """One pass of all workers over their shares, step by step together; one whose share is used up goes on with weight 0."""
    model, batches = trainee.model, trainee.batches(epoch)
    device = next(model.parameters()).device
    model.train()
    total, targets = 0.0, 0.0
    while True:
        optimizer.zero_grad(set_to_none=True)
        own = torch.zeros(2)
        if (batch := next(batches, None)) is not None:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss, n = trainee.loss(batch)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"loss is {loss.item()} in epoch {epoch}, expected a finite one; lower {schedule.name}.learning_rate"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            own = torch.tensor([loss.item() * n, n])
        everyone = _sum_over_workers(own, device)
        if everyone[1] == 0:
            return total / max(targets, 1.0)
        _share_gradients(model, float(own[1] / everyone[1]))
        optimizer.step()
        total, targets = total + float(everyone[0]), targets + float(everyone[1])


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def _sum_over_workers(values: Tensor, device: torch.device) -> Tensor:
    if _distributed():
        values = values.to(device)
        torch.distributed.all_reduce(values)
    return values.cpu()


def _share_gradients(model: nn.Module, weight: float) -> None:
    """Replace each gradient by its mean over the targets of all workers."""
    if not _distributed():
        return
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad *= weight
        torch.distributed.all_reduce(parameter.grad)


def _mean_over_workers(judged: dict[str, float]) -> dict[str, float]:
    if not _distributed():
        return judged
    everyone: list[dict[str, float]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, judged)
    names = {name for one in everyone for name in one}
    return {name: float(np.mean([one[name] for one in everyone if name in one])) for name in sorted(names)}
