"""Fit the two towers with Ray Train: checkpoint each epoch, resume under the same run name, stop when recall stops growing."""

import io
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import ray.train
import torch
from numpy.typing import NDArray
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from reco_ray.arrays import lookup
from reco_ray.config import ClusterConfig, TwoTowerConfig
from reco_ray.features import Catalogue
from reco_ray.hashing import item_keys
from reco_ray.recall.sources.two_tower import item_inputs
from reco_ray.recall.training.examples import Examples, cut_examples, gather_history
from reco_ray.recall.training.tower import TwoTower, sampled_softmax_loss

__all__ = ["EmbeddingsResult", "train_embeddings"]

_VALIDATE_AT = 50
_METRIC = f"valid_recall{_VALIDATE_AT}"


@dataclass(frozen=True, slots=True)
class EmbeddingsResult:
    """Fitted towers: weights by name, keys of the id table's rows, and how the training went (one row per epoch)."""

    weights: dict[str, NDArray[np.float32]]
    trained_keys: NDArray[np.uint64]
    epochs: list[dict[str, float]]


def train_embeddings(
    sequences: pl.DataFrame,
    catalogue: Catalogue,
    config: TwoTowerConfig,
    history: int,
    items_return: bool,
    cluster: ClusterConfig,
    seed: int,
    run_name: str,
    storage: str,
    on_epoch: Callable[[dict[str, float]], None] = lambda _: None,
) -> EmbeddingsResult:
    """Train on users' sequences; a run of the same name that was interrupted goes on from its last epoch.

    Args:
        sequences: columns user_id, item_ids, strengths (oldest first) of the fit part.
        catalogue: of the same snapshot; gives the content features.
        history: longest history the user tower sees.
        items_return: whether finding an item again that a user has had counts, when an epoch is judged.
        on_epoch: called in the driver with each epoch's metrics, after the run.
    """
    trained_keys = catalogue.keys[catalogue.events > 0]
    id_rows, content = item_inputs(catalogue, trained_keys)
    loop_config = {
        "model": asdict(config),
        "history": history,
        "items_return": items_return,
        "seed": seed,
        "keys": ray.put(catalogue.keys),
        "id_rows": ray.put(id_rows),
        "content": ray.put(content),
    }
    result = TorchTrainer(
        _loop,
        train_loop_config=loop_config,
        datasets={"sequences": ray.data.from_arrow(sequences.sort("user_id").to_arrow())},
        scaling_config=ScalingConfig(
            num_workers=cluster.train_workers,
            resources_per_worker={"CPU": cluster.train_cpus_per_worker},
            label_selector=cluster.train_label_selector or None,
        ),
        run_config=RunConfig(
            name=run_name,
            storage_path=storage,
            logging_config=LoggingConfig(log_level="WARNING"),
            failure_config=FailureConfig(max_failures=2),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    ).fit()
    with result.checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / "state.pt", weights_only=True)
    for epoch in state["epochs"]:
        on_epoch(epoch)
    weights = {name: tensor.numpy() for name, tensor in state["best_model"].items()}
    return EmbeddingsResult(weights, trained_keys, state["epochs"])


def _loop(loop_config: dict[str, Any]) -> None:
    config = TwoTowerConfig(**loop_config["model"])
    history, items_return, seed = (loop_config[name] for name in ("history", "items_return", "seed"))
    keys, id_rows, content = (ray.get(loop_config[name]) for name in ("keys", "id_rows", "content"))
    examples = _read(keys)
    torch.manual_seed(seed)
    model = TwoTower(config, int(id_rows.max()), content.shape[1], history)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    log_q = _log_q(examples, len(keys))
    state: dict[str, Any] = {"epochs": [], "best_model": model.state_dict(), "best": -1.0}
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    items = _Items(torch.from_numpy(id_rows), torch.from_numpy(content))
    while not _finished(state["epochs"], config):
        epoch = len(state["epochs"])
        # everything random in an epoch hangs on (seed, epoch), so that a resumed run equals an undisturbed one
        torch.manual_seed(seed * 1_000 + epoch)
        order = np.random.default_rng([seed, epoch]).permutation(examples.train)
        loss = _epoch(model, optimizer, examples, items, order, log_q, config, history)
        recall = _mean_over_workers(_validate(model, examples, items, history, items_return))
        if recall > state["best"]:
            state["best"] = recall
            state["best_model"] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        state["epochs"].append({"epoch": epoch, "loss": loss, _METRIC: recall})
        state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        _report(state)


def _finished(epochs: list[dict[str, float]], config: TwoTowerConfig) -> bool:
    recalls = [e[_METRIC] for e in epochs]
    stale = len(recalls) - 1 - int(np.argmax(recalls)) if recalls else 0
    return len(epochs) >= config.epochs or stale >= config.patience


def _report(state: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if ray.train.get_context().get_world_rank() == 0:
            buffer = io.BytesIO()
            torch.save(state, buffer)
            (Path(folder) / "state.pt").write_bytes(buffer.getvalue())
            checkpoint = Checkpoint.from_directory(folder)
        last = state["epochs"][-1]
        if checkpoint is not None:  # Ray Train keeps workers' logs in files; their stderr reaches the one who watches
            sys.stderr.write(f"epoch {last['epoch']}: loss {last['loss']:.4f}, recall@{_VALIDATE_AT} {last[_METRIC]:.4f}\n")
        ray.train.report(last, checkpoint=checkpoint)


@dataclass(frozen=True, slots=True)
class _Items:
    id_rows: torch.Tensor
    content: torch.Tensor


def _read(keys: NDArray[np.uint64]) -> Examples:
    shard = ray.train.get_dataset_shard("sequences")
    batches = [pl.DataFrame(b) for b in shard.iter_batches(batch_size=None, batch_format="pyarrow")]
    frame = pl.concat(batches).sort("user_id")
    sequences = []
    for item_ids, strengths in frame.select("item_ids", "strengths").iter_rows():
        rows = lookup(keys, item_keys(item_ids))
        known = rows >= 0
        if known.any():
            sequences.append((rows[known], np.asarray(strengths, np.float32)[known]))
    return cut_examples(sequences)


def _log_q(examples: Examples, n_items: int) -> torch.Tensor:
    counts = np.bincount(examples.rows[examples.train], minlength=n_items) + 1e-3
    return torch.from_numpy(np.log(counts / counts.sum())).float()


def _epoch(
    model: TwoTower,
    optimizer: torch.optim.Optimizer,
    examples: Examples,
    items: _Items,
    order: NDArray[np.int64],
    log_q: torch.Tensor,
    config: TwoTowerConfig,
    history: int,
) -> float:
    model.train()
    losses = []
    batches = _agreed(math.ceil(order.size / config.batch_size))
    for i in range(batches):
        positions = np.take(order, range(i * config.batch_size, (i + 1) * config.batch_size), mode="wrap")
        rows, strengths, mask = gather_history(examples, positions, history)
        targets = examples.rows[positions]
        unique, inverse = np.unique(np.concatenate([rows.ravel(), targets]), return_inverse=True)
        vectors = model.items(items.id_rows[unique], items.content[unique])[torch.from_numpy(inverse)]
        past = vectors[: rows.size].view(*rows.shape, -1)
        users = model.users(past, torch.from_numpy(strengths), torch.from_numpy(mask))
        loss = sampled_softmax_loss(users, vectors[rows.size :], torch.from_numpy(targets), log_q[targets], config.temperature)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} in batch {i}; lower recall.two_tower.learning_rate")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        _share_gradients(model)
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses))


@torch.no_grad()
def _validate(model: TwoTower, examples: Examples, items: _Items, history: int, items_return: bool) -> float:
    """Recall@50 of the held-out items over the whole catalogue; what the user had before is left out unless it may return."""
    if not examples.held_out:
        return 0.0
    model.eval()
    vectors = model.items(items.id_rows, items.content)
    positions = np.array([at for at, _ in examples.held_out])
    rows, strengths, mask = gather_history(examples, positions, history)
    users = model.users(vectors[torch.from_numpy(rows)], torch.from_numpy(strengths), torch.from_numpy(mask))
    recalls = []
    for user, (at, targets) in zip(users, examples.held_out, strict=True):
        scores = vectors @ user
        if not items_return:
            scores[torch.from_numpy(examples.rows[examples.starts[at - 1] : at])] = -torch.inf
        top = scores.topk(min(_VALIDATE_AT, len(scores))).indices.numpy()
        recalls.append(np.isin(targets, top).mean())
    return float(np.mean(recalls))


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def _mean_over_workers(value: float) -> float:
    if not _distributed():
        return value
    tensor = torch.tensor(value)
    torch.distributed.all_reduce(tensor)
    return float(tensor / torch.distributed.get_world_size())


def _agreed(batches: int) -> int:
    """The largest number of batches over all workers: each must take part in every step."""
    if not _distributed():
        return batches
    tensor = torch.tensor(batches)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return int(tensor)


def _share_gradients(model: torch.nn.Module) -> None:
    if not _distributed():
        return
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        torch.distributed.all_reduce(parameter.grad)
        parameter.grad /= torch.distributed.get_world_size()
