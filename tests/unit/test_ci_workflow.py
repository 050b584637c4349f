"""The workflow of a tiny release says only what the code of this commit understands."""

import json
import re
from pathlib import Path

import yaml
from typer.main import get_command

from reco_ray.cli.main import app
from reco_ray.compose import compose_config
from reco_ray.rollout import Policy

REPOSITORY = Path(__file__).parents[2]
FLOW = yaml.safe_load((REPOSITORY / ".github/workflows/release.yml").read_text())
RUNS = [step["run"] for step in FLOW["jobs"]["release"]["steps"] if "run" in step]


def test_its_commands_jobs_options_and_settings_are_there() -> None:
    named = [words.split() for run in RUNS for words in re.findall(r"\.venv/bin/reco ([^>|\n]*)", run)]
    assert [" ".join(words[:2]) for words in named if words[0] in ("rollouts", "releases")] == [
        "releases approve",
        "rollouts start",
        "releases card",
        "rollouts status",
        "rollouts history",
    ]
    for words in named:
        command = get_command(app)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
        assert not hasattr(command, "commands"), f"no such command: {words}"
        options = {name for each in command.params for name in each.opts}
        assert {word for word in words if word.startswith("--")} <= options
    jobs = {name for run in RUNS for name in re.findall(r"jobs/\w+\.py", run)}
    assert jobs
    assert all((REPOSITORY / name).is_file() for name in jobs)
    settings = {word for run in RUNS for word in re.findall(r"\b(?:rank|gates|only)[\w.]*=\w+", run)}
    assert compose_config([*FLOW["env"]["TINY"].split(), *sorted(settings - {"rank.rounds=20"})]).rank.rounds == 30


def test_its_policy_starts_in_the_shadow_and_holds_somebody_out() -> None:
    policy = Policy.from_json(json.loads((REPOSITORY / ".github/rollout.json").read_text()))
    assert [step.shadow for step in policy.steps] == [True, False, False]
    assert policy.holdout is not None
