"""What users have told about themselves, one attribute at a time: to compare groups of them, and never a feature."""

import polars as pl

from reco_ray.errors import ConfigError
from reco_ray.lake import tables

__all__ = ["NOT_TOLD", "cohorts"]

NOT_TOLD = "not told"


def cohorts(root: str, attribute: str, users: pl.Series, setting: str) -> list[str]:
    """The value of an attribute for each user, `NOT_TOLD` for those without it.

    Args:
        users: ids. setting: that named the attribute, for the error.
    Raises: ConfigError: no user in the lake has the attribute.
    """
    pairs = pl.col("attributes").cast(pl.List(pl.Struct({"key": pl.String, "value": pl.String})))
    told = tables.read(root, "users", ("user_id", "attributes")).with_columns(pairs).explode("attributes").unnest("attributes")
    if attribute not in told["key"]:
        names = sorted(told["key"].drop_nulls().unique())
        raise ConfigError(
            f"{setting}: found {attribute!r}, expected an attribute of users, {names}; name one of "
            "these, or import users with it"
        )
    values = told.filter(pl.col("key") == attribute).select("user_id", "value")
    found = users.to_frame("user_id").join(values, on="user_id", how="left", maintain_order="left")["value"]
    return found.fill_null(NOT_TOLD).to_list()
