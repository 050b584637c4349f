"""``tune_ranker``: a search over the ranker's settings on the training set of the configuration, and what to do with it."""

import json
import logging
import tempfile
from pathlib import Path

from reco_ray import evaluation as ev
from reco_ray.config import PipelineConfig
from reco_ray.hashing import digest
from reco_ray.lake import storage
from reco_ray.workflow.graph import run_all
from reco_ray.workflow.rankers import training_set
from reco_ray.workflow.steps import STEPS

__all__ = ["OVERRIDES", "tune_ranker"]

log = logging.getLogger(__name__)

OVERRIDES, REPORT = "overrides.txt", "report.json"


def tune_ranker(config: PipelineConfig) -> str:
    """Search, and write `REPORT` and, where the best settings win beyond chance, `OVERRIDES`; returns the folder's URI."""
    from reco_ray.rank.tuner import search

    made = run_all(STEPS, config, upto="build_training_set")["build_training_set"]
    key = digest(made.key, repr(config.rank), repr(config.tune), str(config.seed))
    name, train = f"tune_ranker-{key}", storage.join(config.root, "train")
    found = search(training_set(config, made), config.rank, config.tune, config.cluster, config.seed, name, train)
    gain = ev.paired_difference(found.tuned, found.configured, config.seed, config.evaluation.bootstrap)
    wins = gain.low > 0
    said = {
        "best": dict(found.best),
        "trials": found.trials,
        "groups": len(found.tuned),
        "ndcg10_chosen_by": found.chosen_by,
        "ndcg10_configured": float(found.configured.mean()),
        "ndcg10_tuned": float(found.tuned.mean()),
        "gain": {"mean": gain.mean, "low": gain.low, "high": gain.high},
        "wins": wins,
    }
    uri = storage.join(config.root, "tuned", key)
    with tempfile.TemporaryDirectory() as folder:
        if wins:
            overrides = "".join(f"rank.{name}={value}\n" for name, value in sorted(found.best.items()))
            (Path(folder) / OVERRIDES).write_text(overrides)
        (Path(folder) / REPORT).write_text(json.dumps(said, indent=1))
        storage.publish(Path(folder), uri, REPORT)
    log.info(
        "tune_ranker: %d trials; NDCG@10 of %d held-out groups %.4f, configured %.4f, gain %.4f (%.4f to %.4f); %s",
        *(found.trials, len(found.tuned), said["ndcg10_tuned"], said["ndcg10_configured"], gain.mean, gain.low, gain.high),
        f"give the overrides in {uri}/{OVERRIDES}" if wins else "no more than chance, so keep the configured settings",
    )
    return uri
