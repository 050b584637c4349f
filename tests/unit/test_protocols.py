"""Benchmark files and protocols: what models may see and what they are asked never meet, and bad files are named."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reco_ray.config import BenchmarkConfig, DatasetFormat, ProtocolName
from reco_ray.errors import ConfigError, DataError
from reco_ray.evaluation.datasets import Dataset, read_dataset, read_interactions, read_items, read_sequences
from reco_ray.evaluation.protocols import divide
from reco_ray.evaluation.recall_benchmark import catalogue_of, measure
from reco_ray.recall.query import Hits, Query
from reco_ray.recall.training.chunks import NEXT


def config(protocol: ProtocolName, **given: Any) -> BenchmarkConfig:
    test = "test" if protocol is ProtocolName.separate_test else ""
    return BenchmarkConfig(protocol=protocol, test=test, **given)


def dataset(sequences: dict[str, list[str]], test: pl.DataFrame | None = None) -> Dataset:
    frame = pl.DataFrame({"user_id": list(sequences), "item_id": list(sequences.values())})
    events = frame.with_columns(ts=pl.int_ranges(pl.col("item_id").list.len())).explode("item_id", "ts").sort("user_id", "ts")
    ids = events["item_id"].unique().sort()
    items = pl.DataFrame({"item_id": ids}).with_columns(
        title=pl.lit(None, pl.String),
        categories=pl.lit([], pl.List(pl.String)),
        year=pl.lit(0, pl.Int32),
        available=pl.lit(True),
    )
    return Dataset(events, test, items)


worlds = st.dictionaries(
    st.integers(0, 40).map(lambda u: f"u{u}"),
    st.lists(st.integers(0, 30).map(lambda i: f"i{i}"), min_size=1, max_size=9, unique=True),
    min_size=12,
    max_size=20,
)


def divided(protocol: ProtocolName, data: Dataset, **given: Any) -> Any:
    try:
        return divide(data, config(protocol, held_out=0.3, **given))
    except DataError as exc:
        assert "expected some of both" in str(exc)  # noqa: PT017 - a world may be too small for a protocol
        return None


@pytest.mark.parametrize("protocol", [p for p in ProtocolName if p is not ProtocolName.separate_test])
@given(worlds)
def test_an_answer_is_in_no_history_and_taught_to_nobody_as_this_users_next(
    protocol: ProtocolName, world: dict[str, list[str]]
) -> None:
    if (division := divided(protocol, dataset(world))) is None:
        return
    learnt = dict(zip(division.train["user_id"], division.train["item_ids"].to_list(), strict=True))
    for case in division.cases.iter_rows(named=True):
        whole, history, relevant = world[case["user_id"]], case["history"], case["relevant"]
        assert relevant
        assert not set(relevant) & set(history)
        assert whole[: len(history)] == history, "the history is what came first, in order"
        assert set(relevant) <= set(whole[len(history) :])
        assert not set(learnt.get(case["user_id"], [])) & set(relevant)
        assert case["cold_user"] == (case["user_id"] not in learnt)


@given(worlds)
def test_leave_one_out_tests_the_last_and_validates_by_the_one_before(world: dict[str, list[str]]) -> None:
    if (division := divided(ProtocolName.leave_one_out, dataset(world))) is None:
        return
    cases = {c["user_id"]: c for c in division.cases.iter_rows(named=True)}
    assert set(cases) == {user for user, items in world.items() if len(items) >= 3}
    for row in division.train.iter_rows(named=True):
        items = world[row["user_id"]]
        if len(items) < 3:
            assert (row["item_ids"], row[NEXT]) == (items, None)
        else:
            assert (row["item_ids"], row[NEXT], cases[row["user_id"]]["relevant"]) == (items[:-2], items[-2], items[-1:])


@given(worlds, st.sampled_from([ProtocolName.leave_one_out, ProtocolName.strong_generalisation, ProtocolName.next_item]))
def test_withheld_items_are_not_learnt_and_the_order_of_the_others_stays(
    world: dict[str, list[str]], protocol: ProtocolName
) -> None:
    plain, cold = (divided(protocol, dataset(world), withhold=share) for share in (0.0, 0.3))
    if plain is None or cold is None:
        return
    withheld = set(cold.withheld)
    before = dict(zip(plain.train["user_id"], plain.train["item_ids"].to_list(), strict=True))
    for user, items in zip(cold.train["user_id"], cold.train["item_ids"].to_list(), strict=True):
        assert items == [item for item in before[user] if item not in withheld]
    if NEXT in cold.train.columns:
        assert not withheld & set(cold.train[NEXT].drop_nulls())


def test_next_item_asks_at_every_place_of_the_late_sessions() -> None:
    sessions = {f"s{i}": [f"i{i}", f"i{i + 1}", f"i{i + 2}"] for i in range(10)}
    division = divide(dataset(sessions), config(ProtocolName.next_item, held_out=0.1))
    (session,) = division.cases["user_id"].unique()
    assert division.cases["history"].to_list() == [sessions[session][:1], sessions[session][:2]]
    assert division.cases["relevant"].to_list() == [sessions[session][1:2], sessions[session][2:]]
    assert session not in division.train["user_id"]


def test_a_separate_test_file_is_asked_after_the_whole_first_one() -> None:
    test = pl.DataFrame({"user_id": ["a", "new"], "item_id": ["z", "x"], "ts": [9, 9]})
    division = divide(dataset({"a": ["x", "y", "z"], "b": ["x"]}, test), config(ProtocolName.separate_test, items_return=True))
    rows = division.cases.select("user_id", "history", "relevant", "cold_user").rows()
    assert rows == [("a", ["x", "y", "z"], ["z"], False), ("new", [], ["x"], True)]


def test_a_source_that_knows_the_answers_is_perfect_and_one_that_does_not_is_at_zero() -> None:
    data = dataset({f"u{i}": [f"i{i}", f"i{i + 1}", f"i{i + 2}"] for i in range(20)})
    division = divide(data, config(ProtocolName.leave_one_out))
    catalogue = catalogue_of(data.items, division.train)

    class Oracle:
        def __init__(self, step: int) -> None:
            self.step = step

        def recall(self, queries: list[Query], k: int) -> list[Hits]:
            newest = [int(catalogue.item_ids[q.history[-1]][1:]) for q in queries]
            rows = [catalogue.find([f"i{n + self.step}"]) for n in newest]
            return [(r[r >= 0], r[r >= 0].astype("f4")) for r in rows]

    found = measure(Oracle(1), catalogue, division.cases, False)
    assert (found["recall@5"], found["ndcg@10"]) == (1.0, 1.0)
    assert found["slices"]["cold_items"]["questions"] == 2, "the last two items are in nobody's training"
    assert measure(Oracle(2), catalogue, division.cases, False)["recall@100"] == 0.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u1 a b\nu2\n", r":2: found 'u2', expected 'user item item \.\.\.'"),
        ("u1 a\nu1 b\n", r"found user 'u1' on 2 lines"),
        ("\n\n", r"found no line"),
    ],
)
def test_a_file_of_sequences_that_is_not_one_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "f.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_sequences(tmp_path / "f.txt")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("f.csv", "who,item\na,b\n", r"found columns \['who', 'item'\], expected 'user'; give user_column=NAME"),
        ("f.csv", "user,item\na,\n", r"found 1 rows without a item"),
        ("f.xls", "", r"found suffix '\.xls'"),
        ("f.jsonl", "{", r"found no readable table"),
    ],
)
def test_a_table_that_is_not_one_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_interactions(tmp_path / name, "user", "item", "timestamp")


def test_rows_of_one_time_do_not_keep_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [("u", f"i{n}", 5) for n in range(40)] + [("u", "late", 9)]
    texts = ["".join(f"{u},{i},{t}\n" for u, i, t in part) for part in (rows, rows[::-1])]
    found = []
    for n, text in enumerate(texts):
        (tmp_path / f"{n}.csv").write_text("user,item,timestamp\n" + text)
        found.append(read_interactions(tmp_path / f"{n}.csv", "user", "item", "timestamp")["item_id"].to_list())
    assert found[0] == found[1]
    assert found[0][:-1] != [i for _, i, _ in rows[:-1]]
    assert found[0][-1] == "late"


def test_attributes_come_as_json_or_as_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"x": [1, 2]}))
    assert read_items(tmp_path / "a.json", "item").rows() == [("x", None, ["1", "2"])]
    (tmp_path / "a.csv").write_text("item,title,categories\nx,Ex,1|2\n")
    assert read_items(tmp_path / "a.csv", "item").rows() == [("x", "Ex", ["1", "2"])]
    (tmp_path / "b.json").write_text("[1]")
    with pytest.raises(DataError, match="expected JSON"):
        read_items(tmp_path / "b.json", "item")


def test_a_missing_dataset_or_test_file_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset: found nothing"):
        read_dataset(BenchmarkConfig())
    with pytest.raises(ConfigError, match=r"dataset: found no file"):
        read_dataset(BenchmarkConfig(dataset=str(tmp_path / "no"), format=DatasetFormat.sequences))
    with pytest.raises(ConfigError, match=r"expected a test file with protocol=separate_test"):
        BenchmarkConfig(protocol=ProtocolName.separate_test)
