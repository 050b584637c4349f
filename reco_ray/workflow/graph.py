"""Steps, their order, and which outputs are fresh.

An output lies in ``root/steps/<step>/<key>/``; its key is a hash of the step's settings and of the *content* of its inputs, and
its manifest is written last. So an output with a manifest is complete, a killed run leaves nothing that counts, and the same
inputs are never worked on twice. A step runs when its output is missing, or when a step before it ran.
"""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from reco_ray import __version__
from reco_ray.config import PipelineConfig
from reco_ray.errors import ArtifactError
from reco_ray.hashing import digest
from reco_ray.lake import storage
from reco_ray.release.bundle import MANIFEST, file_hashes

__all__ = ["Output", "Step", "Work", "run_all", "run_one"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Output:
    """A finished output.

    Attributes:
        content: hash of what it holds, whatever run made it.
        facts: numbers and names that later steps and people need.
    """

    step: str
    key: str
    uri: str
    content: str
    facts: Mapping[str, object]
    seconds: float

    def folder(self) -> Path:
        """A local folder with its files."""
        return storage.fetch(self.uri)


@dataclass(frozen=True, slots=True)
class Work:
    """What a step's body gets: the configuration, its inputs by step name, its key, and an empty local folder for files."""

    config: PipelineConfig
    inputs: Mapping[str, Output]
    key: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Attributes:
        after: steps whose outputs it reads.
        settings: the values of the configuration that decide its result.
        body: does the work, writes files into ``work.folder``, returns facts. A fact ``content`` is the hash of what was
            made, where that lies elsewhere (tables of the lake) or the files hold more than the result (times).
        needed: whether the configuration has a use for it.
        check: raises ConfigError for settings that its body cannot use; asked before the first step runs.
        stands: whether the data that lie elsewhere are still there.
    """

    name: str
    after: tuple[str, ...]
    settings: Callable[[PipelineConfig], object]
    body: Callable[[Work], Mapping[str, object]]
    needed: Callable[[PipelineConfig], bool] = lambda _: True
    check: Callable[[PipelineConfig], None] = lambda _: None
    stands: Callable[[PipelineConfig, Output], bool] = lambda _config, _output: True


def run_all(steps: Sequence[Step], config: PipelineConfig, upto: str = "") -> dict[str, Output]:
    """Run the steps in order, skipping what is fresh; returns the outputs by step.

    Args:
        upto: name of the last step to run; all when empty.
    Raises: ConfigError: a step that the configuration needs cannot use its settings.
    """
    _check(steps, config)
    outputs: dict[str, Output] = {}
    ran: set[str] = set()
    for number, step in enumerate(steps, 1):
        if not step.needed(config):
            log.info("[%d/%d] %s: not needed by this configuration", number, len(steps), step.name)
            continue
        inputs = {name: outputs[name] for name in step.after if name in outputs}
        key = _key(step, config, inputs)
        found = _find(step, config, key)
        if found is None or ran & set(step.after):
            log.info("[%d/%d] %s: running", number, len(steps), step.name)
            found = _run(step, config, key, inputs)
            ran.add(step.name)
            log.info("[%d/%d] %s: done in %.1f s: %s", number, len(steps), step.name, found.seconds, _line(found))
            log.info("[%d/%d] %s: report in %s/%s", number, len(steps), step.name, found.uri, MANIFEST)
        else:
            log.info("[%d/%d] %s: fresh, skipped (%s)", number, len(steps), step.name, found.uri)
        outputs[step.name] = found
        if step.name == upto:
            break
    return outputs


def run_one(steps: Sequence[Step], config: PipelineConfig, name: str, again: bool = False) -> Output:
    """Run one step on the finished outputs of the steps before it; a fresh output is returned as it is.

    Args:
        again: run although the output is there.
    Raises: ArtifactError: an output before it is missing; the message names the job to run. ConfigError: as `run_all`.
    """
    outputs: dict[str, Output] = {}
    wanted = _ancestors(steps, name)
    _check([step for step in steps if step.name == name], config)
    for step in steps:
        if step.name not in wanted or not step.needed(config):
            continue
        inputs = {n: outputs[n] for n in step.after if n in outputs}
        key = _key(step, config, inputs)
        found = _find(step, config, key)
        if step.name == name:
            if found is not None and not again:
                log.info("%s: fresh, nothing to do (%s)", name, found.uri)
                return found
            output = _run(step, config, key, inputs)
            log.info("%s: done in %.1f s: %s; report in %s/%s", name, output.seconds, _line(output), output.uri, MANIFEST)
            return output
        if found is None:
            raise ArtifactError(
                f"{name}: found no output of {step.name} for this configuration under {config.root}, expected one; "
                f"run python jobs/{step.name}.py with the same overrides first, or jobs/run_pipeline.py for all"
            )
        outputs[step.name] = found
    raise ArtifactError(f"{name}: this configuration has no use for it; see recall.quotas and rank.kind")


def _ancestors(steps: Sequence[Step], name: str) -> set[str]:
    by_name = {step.name: step for step in steps}
    found, todo = set(), [name]
    while todo:
        if (at := todo.pop()) not in found:
            found.add(at)
            todo.extend(by_name[at].after)
    return found


def _key(step: Step, config: PipelineConfig, inputs: Mapping[str, Output]) -> str:
    # another version of the code may mean something else by the same settings
    return digest(step.name, __version__, repr(step.settings(config)), *(f"{n}={o.content}" for n, o in sorted(inputs.items())))


def _uri(step: Step, config: PipelineConfig, key: str) -> str:
    return storage.join(config.root, "steps", step.name, key)


def _find(step: Step, config: PipelineConfig, key: str) -> Output | None:
    uri = _uri(step, config, key)
    manifest = storage.join(uri, MANIFEST)
    if not storage.exists(manifest):
        return None
    content = json.loads(storage.read_bytes(manifest))
    if any(not storage.exists(storage.join(uri, name)) for name in content["files"]):
        return None
    output = Output(step.name, key, uri, content["content"], content["facts"], content["seconds"])
    return output if step.stands(config, output) else None


def _check(steps: Sequence[Step], config: PipelineConfig) -> None:
    for step in steps:
        if step.needed(config):
            step.check(config)


def _run(step: Step, config: PipelineConfig, key: str, inputs: Mapping[str, Output]) -> Output:
    started = time.monotonic()
    uri = _uri(step, config, key)
    base = Path(config.root) / "tmp" if storage.is_local(config.root) else None
    if base is not None:
        base.mkdir(parents=True, exist_ok=True)  # on root's filesystem, so that publishing is one rename
    with tempfile.TemporaryDirectory(dir=base, prefix=f"{step.name}-", ignore_cleanup_errors=True) as name:
        folder = Path(name) / "output"
        folder.mkdir()
        facts = dict(step.body(Work(config, inputs, key, folder)))
        files = file_hashes(folder)
        content = str(facts.get("content") or digest(json.dumps(files, sort_keys=True)))
        seconds = round(time.monotonic() - started, 2)
        manifest = {
            "step": step.name,
            "key": key,
            "inputs": {n: o.content for n, o in inputs.items()},
            "content": content,
            "facts": facts,
            "files": files,
            "seconds": seconds,
            "made_ts": datetime.now(UTC).isoformat(),
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True, default=str))
        storage.publish(folder, uri, MANIFEST)
    return Output(step.name, key, uri, content, json.loads(json.dumps(facts, default=str)), seconds)


def _line(output: Output) -> str:
    shown = {k: v for k, v in output.facts.items() if isinstance(v, int | float | str) and k != "content"}
    return ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in shown.items()) or output.uri
