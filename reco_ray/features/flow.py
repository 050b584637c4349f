"""Build the features by Ray Data: one task per group of user buckets, so that no user's events are ever shuffled.

Each task reads its buckets by predicate and runs the pure functions over them. Rows of users go to files, sums over users come
back and are added up as they come, in the order of the groups. A group holds a million events at most, whatever the lake holds:
memory does not grow with it.
"""

import itertools
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import polars as pl
import pyarrow as pa
import ray

from reco_ray.config import FeaturesConfig, SplitConfig, SplitKind
from reco_ray.features import pairs, snapshots, transform
from reco_ray.features.items import ItemFacts
from reco_ray.features.leakage import LABELLED, Leak, leaks, learnt, some_users
from reco_ray.features.snapshots import LABEL_PARTS, Group
from reco_ray.features.splits import Split, choose_split, crossing, cuts_of, minutes_of
from reco_ray.features.sums import ITEM_SUMS, Sums, added_up, half_lives, merged
from reco_ray.features.views import SNAPSHOTS
from reco_ray.hashing import USER_BUCKETS, digest
from reco_ray.lake import storage, tables

__all__ = ["LABEL_PARTS", "BuildPlan", "Parts", "Views", "build_pairs", "build_views", "find_leaks", "survey"]

log = logging.getLogger(__name__)

_EVENTS_AT_ONCE = 1_000_000
_LEAST_GROUPS = 8
_EVENTS_CHECKED = 100_000  # twice for each snapshot: 0.8 GB for the receipts of a shop, whose item pairs are many
_SURVEYED = ("user_id", "ts", "type", "value", "consent")

_LEAKS = pa.schema(
    [
        *((name, pa.string()) for name in ("snapshot", "table", "column")),
        *((name, pa.int64()) for name in ("rows", "differ")),
        *((name, pa.float64()) for name in ("future", "past")),
    ]
)

Frames = dict[str, pl.DataFrame]


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What a build works from.

    Attributes:
        root: where the lake lies.
        config: feature settings.
        items: columns item_id, year, categories; sorted by item_id.
        items_return: whether an item that a user has had is a label again.
        categories: vocabulary of the taste features.
        at: version of the table of events.
        groups: of user buckets; see `survey`. largest: the one with the most users.
        split: None before it is chosen.
    """

    root: str
    config: FeaturesConfig
    items: pl.DataFrame
    items_return: bool
    categories: list[str]
    at: int = -1
    groups: int = _LEAST_GROUPS
    largest: int = 0
    split: Split | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """Rows in Parquet files, in the order of the groups.

    Attributes:
        content: hash of the rows in their order.
    """

    uris: Sequence[str]
    rows: int
    content: str

    def batches(self) -> pa.RecordBatchReader:
        """Read the rows, a file at a time."""
        tables_of = (storage.read_parquet(uri) for uri in self.uris)
        first = next(tables_of)
        rest = itertools.chain([first], (table.cast(first.schema) for table in tables_of))
        return pa.RecordBatchReader.from_batches(first.schema, (batch for table in rest for batch in table.to_batches()))


@dataclass(frozen=True, slots=True)
class Views:
    """What a build makes of all users' events.

    Attributes:
        users: the user view of every user in every snapshot, with a column ``snapshot``.
        items: the item view of every item in every snapshot, with a column ``snapshot``.
        labels: what users turned to in the rank and test parts, with a column ``part``.
        sequences: the events of the fit part in order, one row per user: user_id, item_ids, strengths.
        as_of: snapshot -> the time of its last event, microseconds.
        events: of each part of the split. people: users with events.
    """

    users: Parts
    items: pl.DataFrame
    labels: Parts
    sequences: Parts
    as_of: Mapping[str, int]
    events: Mapping[int, int]
    people: int


Work = Callable[[Group, BuildPlan], Frames]


def survey(plan: BuildPlan, config: SplitConfig) -> BuildPlan:
    """Look at the lake as it is now: how it is divided into groups, and into parts in time.

    Raises: DataError: there are no events.
    """
    rows, at = tables.rows(plan.root, "events")
    plan = replace(plan, at=at, groups=_groups(rows))
    cuts = cuts_of(_run(plan, _minutes, "minutes")["minutes"], config)
    users = _run(plan, partial(_crossing, cut_us=cuts[1]), "users across the cut")["users"]
    split = choose_split(cuts, int(users["warm"].sum()), int(users["cold"].sum()), config)
    return replace(plan, split=split, largest=int(users["people"].arg_max() or 0))


def build_views(plan: BuildPlan, scratch: str) -> Views:
    """Compute the views, labels and sequences of all users in one pass over the events.

    Args:
        scratch: URI of a folder for the rows of users, which the caller removes.
    """
    found: dict[str, list[pl.DataFrame]] = {"parts": [], "files": [], "people": []}
    totals = {name: Sums.none(plan.items.height, half_lives(ITEM_SUMS, plan.config)) for name in SNAPSHOTS}
    for frames in _each(plan, partial(_views, scratch=scratch), ("context",)):
        sums = frames.pop("items")
        for name, total in totals.items():
            totals[name] = merged(total, added_up(sums.filter(snapshot=name), plan.items["item_id"], plan.config))
        for name, frame in frames.items():
            found[name].append(frame)
    made = {name: pl.concat(frames) for name, frames in found.items()}
    parts = made["parts"].group_by("part").agg(pl.col("n").sum(), pl.col("last").max()).sort("part")
    as_of = snapshots.as_of(parts)
    items = [
        transform.item_rows(total, plan.items, as_of[name]).with_columns(snapshot=pl.lit(name))
        for name, total in totals.items()
    ]
    return Views(
        _parts(made["files"], "users"),
        pl.concat(items),
        _parts(made["files"], "labels"),
        _parts(made["files"], "sequences"),
        as_of,
        dict(parts.select("part", "n").iter_rows()),
        int(made["people"]["n"].sum()),
    )


def build_pairs(plan: BuildPlan) -> pl.DataFrame:
    """The strongest neighbours of every item in every snapshot, with a column ``snapshot``."""
    item_ids, rows = plan.items["item_id"], []
    for name in SNAPSHOTS:  # one at a time: the pairs are the largest thing of a build
        partials = _run(plan, partial(_pairs, snapshot=name), f"pairs of {name}")["pairs"]
        rows.append(pairs.covisit_rows(partials, item_ids, plan.config).with_columns(snapshot=pl.lit(name)))
    return pl.concat(rows)


def find_leaks(plan: BuildPlan) -> list[Leak]:
    """Compute what models learn from a second time without the future, for users of one group; see `leakage`.

    Returns: the columns that differ.
    """
    found = [row for batch in _tasks([plan.largest], _leaks, plan=plan) for row in batch.to_pylist()]
    log.info("leaks: %d found in group %d of %d", len(found), plan.largest, plan.groups)
    return [Leak(**row) for row in found]


def _groups(rows: int) -> int:
    """How many groups hold a million of so many events at most: a divisor of the buckets, or a multiple of them."""
    wanted = max(_LEAST_GROUPS, -(-rows // _EVENTS_AT_ONCE))
    return next((n for n in range(wanted, USER_BUCKETS) if USER_BUCKETS % n == 0), USER_BUCKETS * -(-wanted // USER_BUCKETS))


def _run(plan: BuildPlan, work: Work, what: str) -> Frames:
    """Run ``work`` on each group's events; returns each of its frames over all groups, in the order of the groups."""
    found: dict[str, list[pl.DataFrame]] = {}
    for frames in _each(plan, work):
        for name, frame in frames.items():
            found.setdefault(name, []).append(frame)
    whole = {name: pl.concat(each) for name, each in found.items()}
    log.info("%s: %s rows", what, ", ".join(f"{frame.height} {name}" for name, frame in whole.items()))
    return whole


def _each(plan: BuildPlan, work: Work, extra: Sequence[str] = ()) -> Iterator[Frames]:
    """Run ``work`` on each group's events; yields what it made of the first group, of the second, and so on.

    Args:
        extra: columns of the events that it needs beside the usual ones.
    """
    early: dict[int, Frames] = {}
    turn = itertools.count()
    waited_for = next(turn)
    for batch in _tasks(range(plan.groups), _task, plan=plan, work=work, extra=extra):
        for row in batch.to_pylist():
            group = row.pop("group")
            early[group] = {name: pl.read_ipc(frame) for name, frame in row.items()}
        while (frames := early.pop(waited_for, None)) is not None:
            yield frames
            waited_for = next(turn)


def _tasks(groups: Sequence[int], task: Callable[..., pa.Table], **given: object) -> Iterator[pa.Table]:
    """Run a Ray task for each group; yields what they return, as it comes."""
    dataset = ray.data.from_items([{"group": group} for group in groups], override_num_blocks=len(groups)).map_batches(
        task, batch_size=1, batch_format="pyarrow", fn_kwargs=given, zero_copy_batch=True
    )
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")


def _task(batch: pa.Table, plan: BuildPlan, work: Work, extra: Sequence[str]) -> pa.Table:
    group = int(batch.column("group")[0].as_py())
    frames = work(_read(plan, group, extra), plan)
    packed = {name: pa.array([_packed(frame)], pa.large_binary()) for name, frame in frames.items()}
    return pa.table({"group": pa.array([group]), **packed})


def _read(plan: BuildPlan, group: int, extra: Sequence[str]) -> Group:
    """A group's events; only the usable ones, undivided, while there is no split yet."""
    if plan.split is not None:
        return snapshots.divided(_raw(plan, plan.split, group, extra), plan.split, plan.config)
    raw = tables.read(plan.root, "events", _SURVEYED, _of_group(group, plan.groups), plan.at)
    return Group(transform.usable(raw, plan.config), pl.DataFrame())


def _raw(plan: BuildPlan, split: Split, group: int, extra: Sequence[str]) -> pl.DataFrame:
    if split.kind is SplitKind.per_user:
        extra = ("event_id", *extra)  # the longest column: read where it decides
    return tables.read(plan.root, "events", (*transform.EVENT_COLUMNS, *extra), _of_group(group, plan.groups), plan.at)


def _of_group(group: int, groups: int) -> pl.Expr:
    """Neighbouring buckets, as they lie in the files; or one part of the users of a bucket, where buckets are too large."""
    if groups <= USER_BUCKETS:
        wide = USER_BUCKETS // groups
        return pl.col("user_bucket").is_between(group * wide, (group + 1) * wide - 1)
    parts = groups // USER_BUCKETS
    return (pl.col("user_bucket") == group // parts) & (pl.col("user_id").hash() % parts == group % parts)


def _packed(frame: pl.DataFrame) -> bytes:
    sink = frame.write_ipc(None)
    return sink.getvalue()


def _minutes(group: Group, plan: BuildPlan) -> Frames:
    return {"minutes": minutes_of(group.events)}


def _crossing(group: Group, plan: BuildPlan, cut_us: int) -> Frames:
    warm, cold = crossing(group.events, cut_us)
    return {"users": pl.DataFrame({"warm": [warm], "cold": [cold], "people": [group.events["user_id"].n_unique()]})}


def _parts(files: pl.DataFrame, name: str) -> Parts:
    mine = files.filter(name=name)
    return Parts(mine["uri"].to_list(), int(mine["rows"].sum()), digest(*mine["content"]))


def _views(group: Group, plan: BuildPlan, scratch: str) -> Frames:
    events, facts = group.events, ItemFacts.of(plan.items, plan.categories)
    # one after another, so that a task holds one of them at a time
    labels = _written("labels", snapshots.labels(events, plan.items_return), scratch)
    group = replace(group, events=events.drop("context"))  # which would be copied for each snapshot
    files = [
        labels,
        _written("users", snapshots.per_snapshot(group, lambda g: transform.user_rows(g.events, facts, plan.config)), scratch),
        _written("sequences", snapshots.sequences(group), scratch),
    ]
    items = snapshots.per_snapshot(group, lambda g: snapshots.sums_of_items(g, plan.config))
    people = pl.DataFrame({"n": [events["user_id"].n_unique()]})
    return {"items": items, "parts": snapshots.part_sizes(events), "people": people, "files": pl.DataFrame(files)}


def _written(name: str, rows: pl.DataFrame, scratch: str) -> dict[str, object]:
    uri = storage.join(scratch, name, f"{uuid.uuid4().hex}.parquet")
    storage.write_parquet(uri, rows.to_arrow(), compression="lz4")
    return {"name": name, "uri": uri, "rows": rows.height, "content": tables.content_hash(rows, ())}


def _pairs(group: Group, plan: BuildPlan, snapshot: str) -> Frames:
    seen = snapshots.held(group, snapshot).events
    return {"pairs": pairs.covisit_partials(seen, plan.items["item_id"], plan.config)}


def _leaks(batch: pa.Table, plan: BuildPlan) -> pa.Table:
    split = plan.split
    assert split is not None
    raw = some_users(_raw(plan, split, int(batch.column("group")[0].as_py()), ("context",)), _EVENTS_CHECKED)
    found: list[Leak] = []
    for snapshot in LABELLED:
        tables_of = learnt(snapshot, plan.items, plan.categories, plan.items_return, plan.config)
        found += leaks(raw, split, snapshot, tables_of, plan.config)
    return pa.Table.from_pylist([asdict(leak) for leak in found], _LEAKS)
