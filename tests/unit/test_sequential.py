"""The next-item model: it learns an order, two forms of it agree, a run that was stopped ends as one that was not."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.config import RecallConfig, SequentialConfig, TwoTowerConfig
from reco_ray.features import Catalogue
from reco_ray.recall.query import Query
from reco_ray.recall.sources.sequential import SequentialSource, next_vector, save_model
from reco_ray.recall.training.chunks import Chunk, Chunks, Held
from reco_ray.recall.training.epochs import Schedule, State, Trainee, fit_epochs
from reco_ray.recall.training.sequence_fit import SequenceTrainee
from reco_ray.recall.training.sequence_model import SequenceModel, next_item_loss
from reco_ray.recall.training.sequences import NegativeSampler, batches, cut_windows, lay_out
from reco_ray.recall.training.tower_fit import TowerTrainee

ITEMS, LENGTH = 30, 8
SMALL = SequentialConfig(embedding_size=16, hidden_size=32, dropout=0.1, negatives=16, batch_targets=128, learning_rate=1e-2)


def packed(sequences: list[np.ndarray], held: list[Held]) -> Chunk:
    rows = np.concatenate(sequences).astype(np.int64)
    offsets = np.cumsum([0, *(len(s) for s in sequences)], dtype=np.int64)
    return Chunk(rows, np.ones(rows.size, np.float32), offsets, held)


@pytest.fixture(scope="module")
def cycle() -> Chunk:
    """After item i comes item i + 1: an order that no count of items or pairs without direction can tell."""
    rng = np.random.default_rng(3)
    walks = [(int(start) + np.arange(12)) % ITEMS for start in rng.integers(0, ITEMS, 120)]
    held = [Held(w[:6], np.ones(6, np.float32), w[6:7]) for w in walks[:40]]
    return packed(walks, held)


def chunks(*parts: Chunk) -> Chunks:
    return lambda: iter(parts)


def schedule(epochs: int, patience: int = 99) -> Schedule:
    return Schedule("recall.sequential", epochs, patience, SMALL.learning_rate, SMALL.weight_decay, 7)


def sequential(cycle: Chunk) -> SequenceTrainee:
    return SequenceTrainee(chunks(cycle), ITEMS, SMALL, LENGTH, True, 7)


def towers(cycle: Chunk) -> TowerTrainee:
    content = np.eye(ITEMS, 4, dtype=np.float32)
    config = TwoTowerConfig(embedding_size=8, hidden_size=8, batch_size=64)
    return TowerTrainee(chunks(cycle), np.arange(1, ITEMS + 1), content, config, LENGTH, True, 7)


def nothing(_: State, __: bool) -> None: ...


def test_the_model_learns_what_comes_next(cycle: Chunk) -> None:
    state = fit_epochs(sequential(cycle), schedule(20), None, nothing)
    assert state["best"] > 0.9, "NDCG@10 of the one next item"


@pytest.mark.parametrize("make", [sequential, towers])
def test_a_resumed_run_equals_an_undisturbed_one(cycle: Chunk, make: type[Trainee]) -> None:  # type: ignore[type-arg]
    whole = fit_epochs(make(cycle), schedule(4), None, nothing)  # type: ignore[call-arg]
    half = fit_epochs(make(cycle), schedule(2), None, nothing)  # type: ignore[call-arg]
    again = fit_epochs(make(cycle), schedule(4), half, nothing)  # type: ignore[call-arg]
    assert again["epochs"] == whole["epochs"]
    for name, tensor in whole["best_model"].items():
        torch.testing.assert_close(again["best_model"][name], tensor, rtol=0, atol=0)


def test_training_stops_when_it_no_longer_gets_better() -> None:
    class Falling:
        model, judged_by = torch.nn.Linear(1, 1), "valid"

        def __init__(self) -> None:
            self.values = iter([0.1, 0.3, 0.2, 0.2, 0.9])

        def batches(self, epoch: int) -> list[int]:
            return iter([epoch])  # type: ignore[return-value]

        def loss(self, batch: int) -> tuple[torch.Tensor, int]:
            return self.model(torch.ones(1)).sum() ** 2, 1

        def validate(self) -> dict[str, float]:
            return {"valid": next(self.values)}

    state = fit_epochs(Falling(), schedule(5, patience=2), None, nothing)  # type: ignore[arg-type]
    assert len(state["epochs"]) == 4
    assert (state["best"], state["best_epoch"]) == (0.3, 1)


def test_a_loss_that_is_not_finite_names_the_setting(cycle: Chunk) -> None:
    trainee = sequential(cycle)
    with torch.no_grad():
        trainee.model.item.weight[1:] = torch.nan
    with pytest.raises(FloatingPointError, match=r"lower recall\.sequential\.learning_rate"):
        fit_epochs(trainee, schedule(1), None, nothing)


@pytest.mark.parametrize("layers", [1, 2])
def test_numpy_and_torch_say_the_same(layers: int) -> None:
    torch.manual_seed(0)
    model = SequenceModel(SequentialConfig(embedding_size=16, hidden_size=32, layers=layers), ITEMS, LENGTH).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
        weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        for history in ([5], [3, 9], [1, 2, 3, 4, 5, 6, 7, 8], list(range(1, 20))):
            rows = torch.tensor([history[-LENGTH:] + [0] * (LENGTH - len(history))])
            expected = model(rows)[0, min(len(history), LENGTH) - 1]
            np.testing.assert_allclose(next_vector(weights, np.array(history)), expected.numpy(), atol=2e-5)


def test_items_that_were_not_learnt_are_neither_brought_nor_heard(catalogue: Catalogue, tmp_path: Path) -> None:
    torch.manual_seed(0)
    learnt = np.arange(0, len(catalogue), 2)
    model = SequenceModel(SequentialConfig(embedding_size=16, hidden_size=32), learnt.size, LENGTH)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    save_model(tmp_path, weights, catalogue.keys[learnt])
    source = SequentialSource.build(tmp_path, catalogue, RecallConfig())

    def ask(*history: int) -> list[int]:
        rows = np.array(history, np.int64)
        return source.recall([Query(rows, np.ones(rows.size, np.float32), np.empty(0, np.int64))], 40)[0][0].tolist()

    assert sorted(ask(0, 2)) == learnt.tolist()
    assert ask(0, 1, 2) == ask(0, 2)
    assert ask(1, 3) == []


def test_a_place_is_blind_to_what_comes_after_it() -> None:
    torch.manual_seed(0)
    model = SequenceModel(SequentialConfig(embedding_size=16, hidden_size=16, layers=2), ITEMS, LENGTH).eval()
    with torch.no_grad():
        one, other = model(torch.tensor([[1, 2, 3, 4, 5]])), model(torch.tensor([[1, 2, 3, 9, 0]]))
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3], other[:, 3])


def test_the_sampled_loss_is_the_full_softmax_on_average() -> None:
    """With logQ off the negatives, the sampled sum of the others is right on average whatever they are drawn by."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    items = torch.nn.functional.normalize(torch.randn(ITEMS, 8), dim=1)
    state, target = items[:1] * 0.5, 4
    logits = (state @ items.T)[0] / 0.5
    exact = float(torch.logsumexp(logits, 0) - logits[target])
    sampler = NegativeSampler(np.arange(1.0, ITEMS + 1))
    draws = torch.from_numpy(sampler.draw(200_000, rng))
    rows = torch.tensor([target])
    log_q = torch.from_numpy(sampler.log_share)[draws]
    sampled = float(next_item_loss(state, items[[target]], items[draws], rows, draws, log_q, 0.5))
    assert math.isclose(sampled, exact, abs_tol=0.01)
    uncorrected = float(next_item_loss(state, items[[target]], items[draws], rows, draws, torch.zeros(len(draws)), 0.5))
    assert abs(uncorrected - exact) > 0.1


lengths = st.lists(st.integers(0, 25), min_size=1, max_size=8)


@given(lengths, st.integers(1, 9))
def test_windows_hold_each_target_once_with_what_came_before(sizes: list[int], length: int) -> None:
    chunk = packed([np.arange(n) for n in sizes], [])
    windows = cut_windows(chunk, length)
    targets = [p for start, n in zip(windows.starts, windows.lengths, strict=True) for p in range(start + 1, start + n)]
    firsts = {int(start) for start, n in zip(chunk.offsets[:-1], sizes, strict=True) if n}
    assert sorted(targets) == [p for p in range(chunk.rows.size) if p not in firsts]
    assert (windows.lengths <= length + 1).all()


@given(lengths, st.integers(1, 9), st.integers(1, 60))
def test_batches_take_each_window_once_and_show_what_comes_next(sizes: list[int], length: int, area: int) -> None:
    chunk = packed([100 * i + np.arange(n) for i, n in enumerate(sizes)], [])
    windows = cut_windows(chunk, length)
    taken = []
    for which in batches(windows, area, np.random.default_rng(0)):
        inputs, targets, counts = lay_out(chunk, windows, which)
        taken += which.tolist()
        assert inputs.size <= max(area, length), "padding counts"
        assert (targets[counts] == inputs[counts] + 1).all()
        assert (inputs[~counts] == 0).all()
    assert sorted(taken) == list(range(windows.starts.size))


def test_negatives_are_drawn_as_often_as_they_are_targets() -> None:
    counts = np.array([0.0, 1, 3, 6])
    drawn = np.bincount(NegativeSampler(counts).draw(100_000, np.random.default_rng(0)), minlength=4)
    np.testing.assert_allclose(drawn / 100_000, counts / 10, atol=0.01)
