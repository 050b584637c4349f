"""From ``conf/`` and a command line to checked dataclasses; the only door through which Hydra comes in.

`job` wraps a job's entry point: it composes the configuration before anything starts, says in one paragraph what is wrong
with an override (found, expected, remedy) and exits with 2, then hands over to Hydra for ``--help``, ``--cfg`` and the run.
"""

import difflib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reco_ray.config import BenchmarkConfig, PipelineConfig
from reco_ray.errors import ConfigError, RecoError

__all__ = ["CONF_DIR", "compose_config", "job", "job_of", "to_config", "to_yaml"]

log = logging.getLogger(__name__)

Report = TypeVar("Report")
Schema = TypeVar("Schema", PipelineConfig, BenchmarkConfig)

_PACKAGED = Path(__file__).parent / "conf"  # in a wheel, conf/ lies inside the package
CONF_DIR = str(_PACKAGED if _PACKAGED.is_dir() else Path(__file__).parent.parent / "conf")

ConfigStore.instance().store(name="schema", node=PipelineConfig)
ConfigStore.instance().store(name="benchmark_schema", node=BenchmarkConfig)


def to_config(cfg: DictConfig, schema: type[Schema]) -> Schema:
    """Check a composed configuration and turn it into dataclasses; ``root`` becomes absolute.

    Raises: ConfigError: a value is out of range or a required one is missing.
    """
    try:
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as exc:
        raise ConfigError(f"{exc.full_key}: {exc.msg}") from exc
    if not isinstance(config, schema):
        raise ConfigError(f"found a configuration of {type(config).__name__}, expected {schema.__name__}; start from that")
    if isinstance(config, PipelineConfig) and "://" not in config.root:
        config.root = str(Path(config.root).expanduser().absolute())
    return config


def to_yaml(config: PipelineConfig | BenchmarkConfig) -> str:
    """Write a configuration out in full, for artifacts and reports."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def compose_config(overrides: Sequence[str] = (), config_name: str = "run_pipeline") -> PipelineConfig:
    """Compose ``conf/<config_name>.yaml`` with overrides, outside of a job (command line, tests, benchmarks).

    Raises: ConfigError: names the key, what was found and what is allowed.
    """
    return to_config(_compose(list(overrides), config_name, PipelineConfig), PipelineConfig)


def job(config_name: str) -> Callable[[Callable[[PipelineConfig], Report]], Callable[[], None]]:
    """Make a function of a checked configuration the entry point ``python jobs/<name>.py [overrides]``."""
    return job_of(PipelineConfig, config_name)


def job_of(schema: type[Schema], config_name: str) -> Callable[[Callable[[Schema], Report]], Callable[[], None]]:
    """Do what `job` does for a job with a configuration of its own kind."""

    def decorate(run: Callable[[Schema], Report]) -> Callable[[], None]:
        def main() -> None:
            overrides = [arg for arg in sys.argv[1:] if not arg.startswith("-") and ("=" in arg or arg.startswith("~"))]
            try:
                _compose(overrides, config_name, schema)
            except ConfigError as exc:
                sys.stderr.write(f"configuration error: {exc}\n")
                raise SystemExit(2) from None

            @hydra.main(version_base="1.3", config_path=CONF_DIR, config_name=config_name)
            def entry(cfg: DictConfig) -> None:
                try:
                    run(to_config(cfg, schema))
                except RecoError as exc:
                    log.error("%s: %s", type(exc).__name__, exc)
                    raise SystemExit(2 if isinstance(exc, ConfigError) else 1) from exc

            entry()

        return main

    return decorate


def _compose(overrides: list[str], config_name: str, schema: type[Schema]) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=CONF_DIR, version_base="1.3"):
            cfg = compose(config_name=config_name, overrides=overrides)
            to_config(cfg, schema)
            return cfg
    except (HydraException, OmegaConfBaseException) as exc:
        raise ConfigError(_explain(exc, overrides, schema)) from exc
    finally:
        GlobalHydra.instance().clear()


def _explain(exc: Exception, overrides: list[str], schema: type) -> str:
    """Say which override is wrong, what was found, what is allowed, and the nearest allowed name."""
    text = f"{exc} {exc.__cause__ or ''}"
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        group = _group_options(key) if schema is PipelineConfig else []
        if group and value not in group and "." not in key and f"{key}/{value}" in text:
            return f"{key}: found {value!r}, expected one of {group}{_nearest(value, group)}"
        allowed, bad = _walk(key.split("."), schema)
        if bad is not None:
            where = key[: key.rindex(bad)].rstrip(".") or "the top level"
            return f"{key}: found no key {bad!r} in {where}, expected one of {allowed}{_nearest(bad, allowed)}"
        enum_match = isinstance(allowed, type) and issubclass(allowed, Enum)
        if enum_match and value not in (names := [e.name for e in allowed]):
            return f"{key}: found {value!r}, expected one of {names}{_nearest(value, names)}"
        if f"override {override}" in text:
            return f"{key}: found {value!r}; {' '.join(str(exc.__cause__ or exc).split())}"
    return " ".join(str(exc.__cause__ or exc).split())


def _group_options(key: str) -> list[str]:
    folder = Path(CONF_DIR) / key
    return sorted(p.stem for p in folder.glob("*.yaml")) if key and folder.is_dir() else []


def _walk(path: list[str], schema: type) -> tuple[Any, str | None]:
    """Follow a dotted key through the schema; return what is allowed there and the first part that does not exist."""
    node: Any = schema
    for part in path:
        if not (isinstance(node, type) and is_dataclass(node)):
            return node, None  # inside a dictionary: any key goes
        types = {f.name: f.type for f in fields(node)}
        if part not in types:
            groups = [] if node is not PipelineConfig else [p.name for p in Path(CONF_DIR).iterdir() if p.is_dir()]
            if part in groups:
                return node, None
            return sorted({*types, *groups}), part
        node = types[part]
    return node, None


def _nearest(found: str, allowed: Sequence[str]) -> str:
    close = difflib.get_close_matches(found, allowed, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
