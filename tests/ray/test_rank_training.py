"""The ranker on Ray Train: a worker that dies goes on from its checkpoint, and the model is that of an undisturbed run."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import xgboost
from rank_world import stored, training_rows

from reco_ray.config import ClusterConfig, RankConfig
from reco_ray.errors import DataError
from reco_ray.rank.stage import MODEL_FILE
from reco_ray.rank.trainer import fit_model


def test_a_killed_worker_resumes_and_the_model_is_the_same(ray_cluster: str, tmp_path: Path) -> None:
    given = stored(tmp_path, training_rows(400))
    cluster, config = ClusterConfig(train_workers=2), RankConfig(rounds=200)
    killed: list[int] = []
    killer = threading.Thread(target=_kill_one, args=(tmp_path / "train" / "disturbed", killed))
    models = []
    for name in ("disturbed", "alone"):
        target = tmp_path / name
        target.mkdir()
        if name == "disturbed":
            killer.start()
        result = fit_model(given, config, cluster, 3, name, str(tmp_path / "train"), target)
        killer.join(30)
        assert result.rounds == 200
        models.append(xgboost.Booster(model_file=str(target / MODEL_FILE)))
    assert len(killed) == 1, "a worker died after the first checkpoint"
    assert models[0].get_dump() == models[1].get_dump()


def test_more_workers_than_groups_are_refused_before_ray_starts_any(tmp_path: Path) -> None:
    given = stored(tmp_path, training_rows(10))
    with pytest.raises(DataError, match=r"expected at least 32 and 16; import more events"):
        fit_model(given, RankConfig(), ClusterConfig(train_workers=16), 3, "few", str(tmp_path), tmp_path)


def _kill_one(run: Path, killed: list[int]) -> None:
    """Kill one of the training's workers once its first checkpoint stands; the state of actors may lag behind it."""
    from ray.util.state import list_actors

    deadline, pause = time.monotonic() + 120, threading.Event()
    alive = [("state", "=", "ALIVE"), ("class_name", "=", "RayTrainWorker")]
    while not killed and time.monotonic() < deadline:
        pids = [actor.pid for actor in list_actors(filters=alive, detail=True) if actor.pid]
        if pids and list(run.glob("checkpoint_*/ranker.ubj")):
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])
        pause.wait(0.01)
