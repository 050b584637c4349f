"""What all commands take: Hydra overrides, turned into the configuration once."""

import logging
from collections.abc import Sequence

import typer

from reco_ray.compose import compose_config
from reco_ray.config import PipelineConfig

__all__ = ["Overrides", "configure"]

Overrides = typer.Argument(None, help="Hydra overrides, e.g. root=/data/reco profile=starter rank.max_depth=8")


def configure(overrides: Sequence[str] | None) -> PipelineConfig:
    """Set up logging to stderr and compose the configuration.

    Raises: ConfigError: an override that does not fit.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return compose_config(list(overrides or ()))
