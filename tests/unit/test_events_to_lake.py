"""From what applications send to rows and dead letters: however it is cut and shuffled, the end is the same."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sink import MemoryBus

from reco_ray.config import DateUnit
from reco_ray.events.contract import Admitted, admit
from reco_ray.events.encoding import rows_to_table
from reco_ray.events.sink import Sink
from reco_ray.lake import tables
from reco_ray.lake.appending import TableAppender
from reco_ray.lake.ids import StoredIds
from reco_ray.store.fence import Fence

NOW_US = 1_790_000_000_000_000
DAY_US = 86_400_000_000
COLUMNS = ["event_id", "user_id", "type", "ts", "date", "user_bucket", "extra", "schema_version"]


def event(number: int, **fields: object) -> dict[str, object]:
    return {"event_id": f"e{number}", "type": "view", "user_id": f"u{number % 3}", "item_id": "i", "ts": NOW_US, **fields}


def one(number: int, kind: str) -> object:
    """The event of that number; its kind follows from the number, so that a repeated event is the same event."""
    match kind:
        case "late":
            return event(number, ts=NOW_US - (number % 40) * DAY_US)
        case "future":
            return event(number, ts=NOW_US + DAY_US)
        case "malformed":
            return [number]
        case "invalid":
            return event(number, type="purchase", schema_version="1.1")
        case "newer minor":
            return event(number, schema_version="1.8", colour=number)
        case "newer major":
            return event(number, schema_version="2.0")
        case _:
            return event(number)


KINDS = ("plain", "late", "future", "malformed", "invalid", "newer minor", "newer major")
SENT = st.lists(st.integers(0, 20), max_size=40).map(lambda numbers: [one(n, KINDS[n % len(KINDS)]) for n in numbers])


def end_of(root: Path, batches: Sequence[Sequence[object]], rows: int) -> tuple[list[Any], Counter[bytes]]:
    """Admit, carry and store; returns the lake's rows and the dead letters."""
    bus, letters = MemoryBus(), Counter[bytes]()
    for batch in batches:
        for verdict in admit(batch, NOW_US):
            if isinstance(verdict, Admitted):
                bus.add(verdict.value)
            else:
                letters[verdict.reason.encode() + b" " + verdict.raw] += 1
    appender = TableAppender(str(root), "events", "sink:events:0", DateUnit.day)
    sink = Sink(
        bus,
        appender,
        rows_to_table,
        DateUnit.day,
        fresh=StoredIds("event_id").fresh,
        fence=Fence,
        refuse=lambda found: letters.update(found),
        rows=rows,
        interval_s=0.0,
    )
    while sink.run_once().read:
        pass
    return sorted(tables.read(str(root), "events", COLUMNS).rows(), key=repr), letters


@settings(max_examples=15)
@given(SENT, st.integers(0, 2**32), st.integers(1, 7), st.integers(1, 9))
def test_any_interleaving_of_what_is_sent_ends_in_the_same_lake_and_dead_letters(
    tmp_path_factory: pytest.TempPathFactory, sent: list[object], seed: int, size: int, rows: int
) -> None:
    shuffled = random.Random(seed).sample(sent, len(sent))
    cut = [shuffled[at : at + size] for at in range(0, len(shuffled), size)]
    straight = end_of(tmp_path_factory.mktemp("straight"), [sent], 1_000)
    assert end_of(tmp_path_factory.mktemp("cut"), cut, rows) == straight
    stored, letters = straight
    ids = [row[0] for row in stored]
    assert len(ids) == len(set(ids))
    kept = {orjson.dumps(each, option=orjson.OPT_SORT_KEYS) for each in sent}
    assert len(ids) + len(letters) == len(kept), "each distinct event is a row or a letter"
