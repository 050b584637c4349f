"""Read a user's own benchmark files: sequences or a table of interactions, and attributes of the items.

Ids stay strings, and items are ordered by a hash of them everywhere after this: files often number items by first
appearance, and a model that could see these numbers would read the future in them.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from reco_ray.config import BenchmarkConfig, DatasetFormat
from reco_ray.errors import ConfigError, DataError
from reco_ray.hashing import hash64_many

__all__ = ["Dataset", "read_dataset", "read_interactions", "read_items", "read_sequences"]

_ITEMS: dict[str, Any] = {"item_id": pl.String, "title": pl.String, "categories": pl.List(pl.String)}


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """What was read.

    Attributes:
        events: columns user_id, item_id, ts (any increasing number), in order of user and time.
        test: as ``events``, None without a test file.
        items: columns item_id, title, categories, of all items of both.
    """

    events: pl.DataFrame
    test: pl.DataFrame | None
    items: pl.DataFrame


def read_dataset(config: BenchmarkConfig) -> Dataset:
    """Read the files that a benchmark names.

    Raises: ConfigError: no dataset is named or a file is not there. DataError: a file is not what its format says.
    """
    if not config.dataset:
        raise ConfigError("dataset: found nothing, expected a file; give dataset=PATH format=sequences|interactions")
    events = _read(config, "dataset", config.dataset)
    test = _read(config, "test", config.test) if config.test else None
    ids = pl.concat([part["item_id"] for part in (events, test) if part is not None]).unique().sort()
    attributes = read_items(_there("items", config.items), config.item_column) if config.items else pl.DataFrame(schema=_ITEMS)
    items = pl.DataFrame({"item_id": ids}).join(attributes, on="item_id", how="left", maintain_order="left")
    return Dataset(events, test, items.with_columns(pl.col("categories").fill_null([])))


def _read(config: BenchmarkConfig, key: str, path: str) -> pl.DataFrame:
    file = _there(key, path)
    if config.format is DatasetFormat.sequences:
        return read_sequences(file)
    return read_interactions(file, config.user_column, config.item_column, config.time_column)


def _there(key: str, path: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"{key}: found no file {file}, expected one; give {key}=PATH")
    return file


def read_sequences(file: Path) -> pl.DataFrame:
    """Read lines of ``user item item ...``, in order of time.

    Raises: DataError: a line has no item, or a user has two lines.
    """
    users, items = [], []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not (words := line.split()):
                continue
            if len(words) < 2:
                raise DataError(f"{file}:{number}: found {line.strip()[:60]!r}, expected 'user item item ...'; remove the line")
            users.append(words[0])
            items.append(words[1:])
    if not users:
        raise DataError(f"{file}: found no line, expected 'user item item ...' in each")
    (user, times), *_ = Counter(users).most_common(1)
    if times > 1:
        raise DataError(f"{file}: found user {user!r} on {times} lines, expected one line per user; join them in order of time")
    frame = pl.DataFrame({"user_id": users, "item_id": items})
    return frame.with_columns(ts=pl.int_ranges(pl.col("item_id").list.len())).explode("item_id", "ts").sort("user_id", "ts")


def read_interactions(file: Path, user: str, item: str, time: str) -> pl.DataFrame:
    """Read a table (csv, tsv, ndjson, parquet) with a row per interaction; without the column ``time`` rows are in order.

    Rows of one user and time go by a hash of the item: the order in a file may know what came later.

    Raises: DataError: a column is missing, a value is null, or the file cannot be read.
    """
    readers = {
        ".csv": lambda: pl.read_csv(file, infer_schema_length=10_000),
        ".tsv": lambda: pl.read_csv(file, separator="\t", infer_schema_length=10_000),
        ".jsonl": lambda: pl.read_ndjson(file),
        ".ndjson": lambda: pl.read_ndjson(file),
        ".parquet": lambda: pl.read_parquet(file),
    }
    if file.suffix not in readers:
        raise DataError(f"{file}: found suffix {file.suffix!r}, expected one of {sorted(readers)}; rename or convert the file")
    try:
        table = readers[file.suffix]()
    except pl.exceptions.PolarsError as exc:
        raise DataError(f"{file}: found no readable table ({str(exc).splitlines()[0]}), expected {file.suffix[1:]}") from exc
    for key, name in (("user_column", user), ("item_column", item)):
        if name not in table.columns:
            raise DataError(f"{file}: found columns {table.columns}, expected {name!r}; give {key}=NAME")
    frame = table.select(user_id=pl.col(user).cast(pl.String), item_id=pl.col(item).cast(pl.String))
    frame = frame.with_columns(ts=table[time]) if time in table.columns else frame.with_row_index("ts")
    for name, found in frame.null_count().row(0, named=True).items():
        if found:
            raise DataError(f"{file}: found {found} rows without a {name.removesuffix('_id')}, expected none; remove them")
    ties = pl.Series("tie", hash64_many(frame["item_id"], "tie"))
    return frame.with_columns(ties).sort("user_id", "ts", "tie").drop("tie")


def read_items(file: Path, item: str) -> pl.DataFrame:
    """Read attributes of items: JSON ``{item: [attribute, ...]}``, or a table with the columns of a user's own.

    Returns: columns item_id, title, categories.
    Raises: DataError: the file is not one of these.
    """
    if file.suffix == ".json":
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            rows = [{"item_id": str(key), "categories": [str(value) for value in values]} for key, values in found.items()]
        except (ValueError, AttributeError, TypeError) as exc:
            raise DataError(f"{file}: expected JSON {{item: [attribute, ...]}}, found something else ({exc})") from exc
        return pl.DataFrame(rows, schema={"item_id": pl.String, "categories": pl.List(pl.String)}).select(
            "item_id", pl.lit(None, pl.String).alias("title"), "categories"
        )
    table = pl.read_ndjson(file) if file.suffix in (".jsonl", ".ndjson") else pl.read_csv(file, infer_schema_length=10_000)
    if item not in table.columns:
        raise DataError(f"{file}: found columns {table.columns}, expected {item!r}; give item_column=NAME")
    title = pl.col("title").cast(pl.String) if "title" in table.columns else pl.lit(None, pl.String).alias("title")
    split = (
        pl.col("categories").cast(pl.String).str.split("|") if "categories" in table.columns else pl.lit([], pl.List(pl.String))
    )
    return table.select(pl.col(item).cast(pl.String).alias("item_id"), title, split.alias("categories")).unique("item_id")
