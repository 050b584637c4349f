"""People's own files."""

from pathlib import Path

import polars as pl

from reco_ray.errors import DataError

__all__ = ["read_file"]


def read_file(path: str) -> pl.LazyFrame:
    """Open a CSV, Parquet or JSONL file by its ending.

    Raises: DataError: no such file, or another ending.
    """
    suffix = Path(path).suffix.lower()
    if "://" not in path and not Path(path).exists():
        raise DataError(f"{path}: found no file; check source.events and source.items")
    if suffix == ".csv":
        return pl.scan_csv(path, infer_schema_length=10_000)
    if suffix in (".parquet", ".pq"):
        return pl.scan_parquet(path)
    if suffix in (".jsonl", ".ndjson"):
        return pl.scan_ndjson(path, infer_schema_length=10_000)
    raise DataError(f"{path}: found ending {suffix!r}, expected .csv, .parquet or .jsonl")
