"""Configuration errors name the key, what was found, and what is allowed."""

import subprocess
import sys
from pathlib import Path

import pytest

from reco_ray.compose import CONF_DIR, _compose, compose_config, to_config, to_yaml
from reco_ray.config import BenchmarkConfig, PipelineConfig, RankKind, SourceKind, SourceName
from reco_ray.errors import ConfigError

JOBS = sorted(p.stem for p in (Path(__file__).parents[2] / "jobs").glob("*.py"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rank.max_dept=3", "rank.max_dept: found no key 'max_dept' in rank.*did you mean 'max_depth'"),
        ("rank.max_depth=deep", "rank.max_depth: found 'deep'"),
        ("rank.max_depth=99", "rank.max_depth: found 99, expected 1 to 16"),
        ("rank.kind=xgb", "rank.kind: found 'xgb', expected one of .*did you mean 'xgboost'"),
        ("rank=xgb", "rank: found 'xgb', expected one of .*did you mean 'xgboost'"),
        ("rank=", "rank: found ''"),
        ("profile=lcal", "profile: found 'lcal', expected one of .*did you mean 'local'"),
        ("sorce=files", "sorce: found no key 'sorce' in the top level.*did you mean 'source'"),
        ("recall.quotas.popuar=3", "recall.quotas.popuar.*popular"),
        ("recall.quotas.repeat=9", "recall.quotas.repeat: found 9 and rerank.seen_items_return=false.*give rerank=repeat"),
        ("source=files", "source.events: found nothing"),
        ("profile=cluster", "root: found nothing"),
        ("root=s3://bucket/reco", "is remote: found store.url='' and tracking.uri=''"),
        ("split.fit=0.9", "split: found fit=0.9"),
        ("serve.host=0.0.0.0", "serve.auth: found off with serve.host=0.0.0.0, expected keys.*give serve.auth=keys"),
        ("serve.auth=key", "serve.auth: found 'key', expected one of .*did you mean 'keys'"),
        ("serve.key_burst=0", "serve.key_burst: found 0"),
        ("privacy.events_days=3", "privacy.events_days: found 3, expected 0 or more than feedback.delay_hours=72 and a day"),
    ],
)
def test_a_wrong_override_says_found_and_expected(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_config([override])


def test_groups_and_keys_reach_the_dataclasses() -> None:
    config = compose_config(["source=files", "source.events=x.csv", "source.columns.user_id=who", "root=here"])
    assert config.source.kind is SourceKind.files
    assert config.source.columns.user_id == "who"
    assert Path(config.root).is_absolute()


def test_the_starter_profile_trains_nothing() -> None:
    config = compose_config(["profile=starter"])
    assert config.rank.kind is RankKind.none
    assert config.recall.quotas[SourceName.two_tower] == 0


def test_the_resolved_configuration_can_be_written_out() -> None:
    assert "max_depth: 9" in to_yaml(compose_config(["rank.max_depth=9"]))


GROUPS = sorted(p for p in Path(CONF_DIR).glob("*/*.yaml") if p.parent.name != "profile" and p.stem != "files")


@pytest.mark.parametrize("path", GROUPS, ids=lambda p: f"{p.parent.name}={p.stem}")
def test_every_option_of_every_group_composes(path: Path) -> None:
    compose_config([f"{path.parent.name}={path.stem}"])


@pytest.mark.parametrize("name", JOBS)
def test_every_job_has_a_configuration_that_composes(name: str) -> None:
    assert (Path(CONF_DIR) / f"{name}.yaml").is_file()
    schema = BenchmarkConfig if name == "benchmark_recall" else PipelineConfig
    assert isinstance(to_config(_compose([], name, schema), schema), schema)


def test_a_job_shows_help_and_its_configuration_and_refuses_typos_before_ray_starts() -> None:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, f"{Path(CONF_DIR).parent}/jobs/train_ranker.py", *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert "Train the XGBoost ranker" in run("--help").stdout
    assert "max_depth: 9" in run("--cfg", "job", "rank.max_depth=9").stdout
    wrong = run("rank.max_dept=3")
    assert wrong.returncode == 2
    assert "did you mean 'max_depth'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
