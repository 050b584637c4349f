"""Loads as processes of their own, for whoever measures: start one, mark what happens meanwhile, take the result.

with start_load(Load(url=..., bodies=..., rate=100, seconds=30)) as running:
    running.mark("gateway replica killed")
    ...
    report = running.result()      # report["marks"] == [{"t": 12.3, "name": "gateway replica killed"}]
"""

import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from plan import Load

__all__ = ["Load", "LoadFailed", "RunningLoad", "run_load", "start_load"]

_CLIENT = Path(__file__).parent / "client.py"


class LoadFailed(RuntimeError):
    """The load generator itself failed; what it said is the message."""


def start_load(load: Load) -> "RunningLoad":
    """Start a load; returns when its first request is about to leave, or will at ``load.start_at``."""
    return RunningLoad(load)


def run_load(load: Load) -> dict[str, Any]:
    """Run a load to its end; returns its report."""
    with start_load(load) as running:
        return running.result()


class RunningLoad:
    """A load that was started.

    Attributes:
        started_unix: Unix time of ``t = 0`` in the report's timeline, which is when the warm-up ends.
    """

    def __init__(self, load: Load) -> None:
        self.load = load
        self._marks: list[tuple[float, str]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="reco-load-")
        self._out, errors = Path(self._folder.name) / "report.json", Path(self._folder.name) / "stderr"
        with errors.open("w") as stderr:
            self._process = subprocess.Popen(_command(load, self._out), stdout=subprocess.PIPE, stderr=stderr, text=True)
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        if not first:
            self._process.wait()
            said = errors.read_text().strip()
            self._close()
            raise LoadFailed(f"the load did not start: {said}")
        self.started_unix: float = json.loads(first)["started_unix"]

    def mark(self, name: str) -> None:
        """Note that something happens now."""
        self._marks.append((time.time(), name))

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of the load; returns whether it has ended. In between the caller may measure other things."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=timeout_s)
        return self._process.poll() is not None

    def stop(self) -> None:
        """Send nothing more; the report then covers the time until now."""
        self._process.terminate()

    def result(self) -> dict[str, Any]:
        """Wait for the end; returns the report of `tally.Tally`, with ``marks`` in its time.

        Raises: LoadFailed: the generator crashed.
        """
        self._process.wait()
        if self._process.returncode:
            raise LoadFailed((Path(self._folder.name) / "stderr").read_text().strip())
        report: dict[str, Any] = json.loads(self._out.read_text())
        report["marks"] = [{"t": round(at - self.started_unix, 3), "name": name} for at, name in self._marks]
        return report

    def __enter__(self) -> "RunningLoad":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._folder.cleanup()


def _command(load: Load, out: Path) -> list[str]:
    return [sys.executable, str(_CLIENT), load.url, str(load.bodies), "--announce", "--out", str(out), *_options(load)]


def _options(load: Load) -> Iterator[str]:
    for field in dataclasses.fields(load):
        value = getattr(load, field.name)
        if field.name in ("url", "bodies") or value == field.default:
            continue
        for each in value if isinstance(value, tuple) else (value,):
            yield from (f"--{field.name.replace('_', '-')}", str(each))
