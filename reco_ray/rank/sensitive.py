"""Columns that say something of a person that the law or good sense protects: a ranker uses those that its release declares."""

from collections.abc import Sequence

from reco_ray.errors import ConfigError
from reco_ray.features.views import Column

__all__ = ["check_declared"]


def check_declared(used: Sequence[Column], declared: Sequence[str]) -> None:
    """Pass where the sensitive columns are those declared: none in silence, and none declared that is not there.

    Args:
        used: columns of the views that the ranker uses.
    Raises: ConfigError: names the columns, and what to do.
    """
    sensitive = {column.name for column in used if column.sensitive}
    if silent := sorted(sensitive - set(declared)):
        raise ConfigError(
            f"rank.declared_sensitive: found the ranker using the sensitive columns {silent} undeclared, expected each named; "
            f"give rank.declared_sensitive=[{','.join(sorted(sensitive))}] where using them is right, or drop them from the "
            "ranker's columns"
        )
    if idle := sorted(set(declared) - sensitive):
        raise ConfigError(
            f"rank.declared_sensitive: found {idle}, expected only sensitive columns that the ranker uses, "
            f"{sorted(sensitive)}; take the others out"
        )
