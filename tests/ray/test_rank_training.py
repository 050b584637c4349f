"""The ranker on Ray Train: a worker that dies goes on from its checkpoint, and the model is that of an undisturbed run."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray
import xgboost
from rank_world import stored, together, training_rows
from watched_training import Watched

from reco_ray.config import ClusterConfig, RankConfig
from reco_ray.errors import DataError
from reco_ray.rank.groups import quantile_matrices
from reco_ray.rank.parameters import parameters
from reco_ray.rank.rounds import fit_rounds
from reco_ray.rank.stage import MODEL_FILE
from reco_ray.rank.trainer import fit_model

ROUNDS, WORKERS = 400, 2


def test_a_killed_worker_resumes_and_the_model_is_the_same(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")  # Ray Train knows of a checkpoint when it polls
    given, config = Watched.of(stored(tmp_path, training_rows(400))), RankConfig(rounds=ROUNDS)
    killer = threading.Thread(target=_kill_one, args=(tmp_path / "train" / "disturbed", tmp_path), daemon=True)
    killer.start()
    result = fit_model(given, config, ClusterConfig(train_workers=WORKERS), 3, "disturbed", str(tmp_path / "train"), tmp_path)
    starts = sorted(int(path.read_text()) for path in tmp_path.glob("*.reader"))
    assert starts[:WORKERS] == [0] * WORKERS
    assert len(starts) == 2 * WORKERS, "one died, and all began anew"
    assert 25 <= starts[WORKERS] == starts[-1] < ROUNDS, "from a checkpoint"
    assert result.rounds == ROUNDS
    assert xgboost.Booster(model_file=str(tmp_path / MODEL_FILE)).get_dump() == _undisturbed(tmp_path, config).get_dump()


def test_openmp_has_as_many_threads_as_a_worker_has_cpus(ray_cluster: str) -> None:
    def threads() -> tuple[int, set[int]]:
        import xgboost  # noqa: F401 - brings OpenMP
        from threadpoolctl import threadpool_info

        from reco_ray.training import take_threads

        taken = take_threads()
        return taken, {each["num_threads"] for each in threadpool_info() if each["user_api"] == "openmp"}

    found = ray.get([ray.remote(threads).options(num_cpus=cpus).remote() for cpus in (0.5, 2)])
    assert found == [(1, {1}), (2, {2})]


def test_more_workers_than_groups_are_refused_before_ray_starts_any(tmp_path: Path) -> None:
    given = stored(tmp_path, training_rows(10))
    with pytest.raises(DataError, match=r"expected at least 32 and 16; import more events"):
        fit_model(given, RankConfig(), ClusterConfig(train_workers=16), 3, "few", str(tmp_path), tmp_path)


def _undisturbed(root: Path, config: RankConfig) -> xgboost.Booster:
    given = stored(root / "again", training_rows(400))

    def work(rank: int) -> bytes:
        train, valid = quantile_matrices(given.read(None, rank, WORKERS))
        params = parameters(config, 3) | {"nthread": 1}
        return bytes(fit_rounds(params, train, valid, ROUNDS, 0, None, lambda *_: None).save_raw())

    return xgboost.Booster(model_file=bytearray(together(work, WORKERS)[0]))


def _kill_one(run: Path, readers: Path) -> None:
    """Kill one of the workers once Ray Train knows of a checkpoint."""
    known, deadline, pause = run / "checkpoint_manager_snapshot.json", time.monotonic() + 120, threading.Event()
    while time.monotonic() < deadline:
        if known.exists() and "checkpoint_" in known.read_text():
            os.kill(int(next(readers.glob("*.reader")).stem), signal.SIGKILL)
            return
        pause.wait(0.01)
