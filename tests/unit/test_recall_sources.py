"""What mf, content, fresh and the lists of segments are for; what all sources share is in `test_source_contract`."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from recall_world import FACTORS, packed

from reco_ray.config import ContentConfig, MfConfig, RecallConfig, SourceName
from reco_ray.errors import ArtifactError, ConfigError
from reco_ray.features import Catalogue
from reco_ray.hashing import item_keys
from reco_ray.lake import storage
from reco_ray.recall import load
from reco_ray.recall.query import Query, make_query
from reco_ray.recall.sources.content import ContentSource, documents_of
from reco_ray.recall.sources.fresh import FreshSource
from reco_ray.recall.sources.lists import ListSource
from reco_ray.recall.sources.lsa import LsaEncoder, words
from reco_ray.recall.sources.mf import MfSource, fold_in, load_factors, save_factors
from reco_ray.recall.sources.repeat import RepeatSource
from reco_ray.recall.sources.segments import SEGMENTED, Segments
from reco_ray.recall.training.factors import fit_factors
from reco_ray.recall.training.text import fit_lsa
from reco_ray.types import Request

NOTHING = np.empty(0, np.int64)


def ask(history: np.ndarray, turn: int = 0, hidden: np.ndarray = NOTHING) -> Query:
    return Query(history, np.ones(history.size, np.float32), hidden, turn=turn)


class TestRepeat:
    def test_what_was_had_often_comes_first_and_of_two_had_as_often_the_later_one(self, catalogue: Catalogue) -> None:
        source = RepeatSource(catalogue)
        history = np.array([7, 3, 7, 5, 3, 9, 5, 7])
        (found, scores), nothing = source.recall([ask(history), ask(NOTHING)], 10)
        assert found.tolist() == [7, 5, 3, 9]
        np.testing.assert_allclose(
            scores, [0.998**7 + 0.998**5 + 1, 0.998**4 + 0.998, 0.998**6 + 0.998**3, 0.998**2], rtol=1e-6
        )
        assert not nothing[0].size
        hidden, short = source.recall([ask(history, hidden=np.array([7]))], 10)[0], source.recall([ask(history)], 2)[0]
        assert (hidden[0].tolist(), short[0].tolist()) == ([5, 3, 9], [7, 5])

    def test_a_strong_event_counts_as_several_weak_ones(self, catalogue: Catalogue) -> None:
        query = Query(np.array([4, 4, 6]), np.array([0.2, 0.2, 1.0], np.float32), NOTHING)
        assert RepeatSource(catalogue).recall([query], 10)[0][0].tolist() == [6, 4]


class TestMf:
    def test_a_history_that_was_never_trained_on_finds_items_of_its_taste(self, folder: Path) -> None:
        stage = load(folder)
        history = np.sort(stage.catalogue.find(["item-1", "item-5", "item-9"]))
        (found, _) = stage.sources["mf"].recall([ask(history, hidden=history)], 10)[0]
        assert all(int(stage.catalogue.item_ids[row][5:]) % 2 == 1 for row in found)
        assert found.size == 10

    def test_the_same_seed_gives_the_same_factors_and_the_loss_falls(self, events: pl.DataFrame, catalogue: Catalogue) -> None:
        one, losses = fit_factors([packed(events, catalogue)], len(catalogue), FACTORS, 7)
        two, _ = fit_factors([packed(events, catalogue)], len(catalogue), FACTORS, 7)
        np.testing.assert_array_equal(one, two)
        assert losses[-1]["loss"] < losses[0]["loss"]
        assert len(losses) == FACTORS.iterations

    def test_users_in_several_chunks_are_the_same_users(self, events: pl.DataFrame, catalogue: Catalogue) -> None:
        halves = [packed(part, catalogue) for part in (events.filter(pl.col("user_id") <= "user-2"),)]
        halves.append(packed(events.filter(pl.col("user_id") > "user-2"), catalogue))
        whole, _ = fit_factors([packed(events, catalogue)], len(catalogue), FACTORS, 7)
        parts, _ = fit_factors(halves, len(catalogue), FACTORS, 7)
        np.testing.assert_allclose(parts, whole, atol=1e-5)

    def test_folding_in_solves_what_training_solves(self) -> None:
        rng = np.random.default_rng(3)
        items, strengths, alpha, ridge = rng.standard_normal((30, 6)).astype(np.float32), np.array([0.5, 1.0]), 4.0, 2.0
        had = [4, 17]
        confidence, wanted = np.ones(30), np.zeros(30)
        confidence[had], wanted[had] = 1 + alpha * strengths, 1
        left = (items * confidence[:, None]).T @ items + ridge * np.eye(6)
        expected = np.linalg.solve(left, (items * (confidence * wanted)[:, None]).sum(axis=0))
        gram = (items.T @ items + ridge * np.eye(6)).astype(np.float32)
        found = fold_in(items[had], strengths.astype(np.float32), gram, alpha)
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    def test_what_is_kept_gives_the_scores_of_what_was_fitted(self, tmp_path: Path) -> None:
        items = np.random.default_rng(5).standard_normal((30, 6)).astype(np.float32) * 0.03
        save_factors(tmp_path, items, np.sort(item_keys([str(i) for i in range(30)])), 4.0, 2.0)
        kept, _ = load_factors(tmp_path)
        ones = np.ones(2, np.float32)
        gram = items.T @ items + 2 * np.eye(6, dtype=np.float32)
        expected = items @ fold_in(items[:2], ones, gram, 4.0)
        found = kept["factors"] @ fold_in(kept["factors"][:2], ones, kept["ridge"], float(kept["alpha"][0]))
        np.testing.assert_allclose(found, expected, rtol=1e-3)
        assert np.linalg.norm(kept["factors"], axis=1).mean() == pytest.approx(1, rel=1e-5)

    def test_items_without_events_are_never_returned(self, catalogue: Catalogue, tmp_path: Path) -> None:
        factors = np.random.default_rng(5).standard_normal((30, 6)).astype(np.float32)
        save_factors(tmp_path, factors, catalogue.keys[:30], 4.0, 2.0)
        source = MfSource.build(tmp_path, catalogue, RecallConfig())
        (found, _) = source.recall([ask(np.array([3, 35]))], 40)[0]
        assert sorted(found.tolist()) == list(range(30))
        assert not source.recall([ask(np.array([35, 36]))], 40)[0][0].size

    def test_a_folder_without_factors_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="run train_embeddings"):
            load_factors(tmp_path)

    def test_sequences_are_read_in_their_order_from_a_file_and_from_a_folder(self, tmp_path: Path) -> None:
        frame = pl.DataFrame({"user_id": [str(i) for i in range(10)]})
        for name, part in (("a", frame[:6]), ("b", frame[6:])):
            part.write_parquet(tmp_path / f"{name}.parquet", row_group_size=2)
        for uri, expected in ((tmp_path, frame), (tmp_path / "a.parquet", frame[:6])):
            batches = list(storage.parquet_batches(str(uri), 4))
            assert max(batch.num_rows for batch in batches) <= 4
            assert pl.concat([pl.DataFrame(batch) for batch in batches]).equals(expected)


FILMS = pl.DataFrame(
    {
        "item_id": [f"film-{i}" for i in range(6)],
        "title": ["Alien", "Aliens", "Amélie", "Le Dîner", None, "Solaris"],
        "text": ["A crew meets a stranger in space", "Marines in space", None, "A dinner in Paris", None, "A station in space"],
        "categories": [["Horror", "Sci-Fi"], ["Action", "Sci-Fi"], ["Comedy"], ["Comedy"], None, ["Sci-Fi"]],
        "year": [1979, 1986, 2001, 1998, None, 1972],
    },
    schema_overrides={"categories": pl.List(pl.String)},
)


@pytest.fixture(scope="module")
def films() -> tuple[ContentSource, list[str]]:
    ids = FILMS["item_id"].to_list()
    rows = np.argsort(item_keys(ids))

    class Films:
        def find(self, item_ids: list[str]) -> np.ndarray:
            return np.argsort(rows)[[ids.index(each) for each in item_ids]]

    source = ContentSource.build(FILMS.sample(fraction=1, shuffle=True, seed=1), Films(), RecallConfig())  # type: ignore[arg-type]
    return source, [ids[row] for row in rows]


class TestContent:
    def test_a_document_holds_what_is_known_of_an_item(self) -> None:
        assert documents_of(FILMS)[0] == "Alien. A crew meets a stranger in space. Horror Sci-Fi. 1970s"
        assert documents_of(FILMS)[4] == ""
        assert documents_of(FILMS.select("item_id", "title", "categories"))[2] == "Amélie. Comedy"

    def test_words_have_no_case_and_no_accents(self) -> None:
        assert words("Le DÎNER, à l'Été_1998!") == ["le", "diner", "a", "l", "ete", "1998"]

    def test_what_people_type_finds_items(self, films: tuple[ContentSource, list[str]]) -> None:
        source, ids = films
        (found, scores) = source.find("diner in paris", 2)
        assert ids[found[0]] == "film-3"
        assert (np.diff(scores) <= 0).all()
        (space, _) = source.find("SCI-FI, space!", 3)
        assert {ids[row] for row in space} == {"film-0", "film-1", "film-5"}
        (hidden, _) = source.find("SCI-FI, space!", 3, np.sort(space[:1]))
        assert space[0] not in hidden
        assert not source.find("xylophone", 3)[0].size
        assert not source.find("", 3)[0].size

    def test_a_release_finds_its_available_items_and_says_when_it_has_no_texts(self, folder: Path) -> None:
        stage = load(folder)
        (found, _) = stage.find("odd", 5)
        assert [int(stage.catalogue.item_ids[row][5:]) % 2 for row in found] == [1] * 5
        del stage.sources["content"]
        with pytest.raises(ConfigError, match=r"set recall\.quotas\.content"):
            stage.find("odd", 5)

    def test_an_item_without_a_text_is_never_returned_and_says_nothing(self, films: tuple[ContentSource, list[str]]) -> None:
        source, ids = films
        dumb = ids.index("film-4")
        (found, _) = source.recall([ask(np.array([ids.index("film-2")]))], 6)[0]
        assert dumb not in found
        assert not source.recall([ask(np.array([dumb]))], 6)[0][0].size

    def test_the_newest_items_of_a_history_count_most(self, films: tuple[ContentSource, list[str]]) -> None:
        source, ids = films
        space, comedy = ids.index("film-1"), ids.index("film-2")
        newest: dict[str, dict[str, float]] = {}
        for name, history in (("comedy", [space] * 3 + [comedy] * 3), ("space", [comedy] * 3 + [space] * 3)):
            (found, scores) = source.recall([ask(np.array(history))], 6)[0]
            newest[name] = {ids[row]: float(score) for row, score in zip(found, scores, strict=True)}
        assert newest["comedy"]["film-3"] > newest["space"]["film-3"]
        assert newest["comedy"]["film-5"] < newest["space"]["film-5"]

    def test_a_new_item_is_near_those_that_it_is_like(self, films: tuple[ContentSource, list[str]]) -> None:
        source, _ = films
        new = FILMS[:1].with_columns(item_id=pl.lit("new"), title=pl.lit("Alien Dawn"))
        near = source.encode(new) @ source.encode(FILMS).T
        assert near[0].argmax() == 0
        assert near[0, 0] > 0.8

    def test_plain_python_and_scikit_learn_give_the_same_vectors(self) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts = [f"{a} {b} {b} {c}" for a in ("red", "blue") for b in ("fish", "cat", "dog") for c in ("runs", "sleeps")]
        weigh = TfidfVectorizer(analyzer=words, sublinear_tf=True)
        project = TruncatedSVD(3, random_state=0)
        expected = project.fit_transform(weigh.fit_transform(texts))
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        found = fit_lsa(texts, ContentConfig(dimensions=3)).encode(texts)
        np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)

    @pytest.mark.parametrize("texts", [[], ["", "!"], ["one"], ["one", "one"]])
    def test_little_text_is_no_error(self, texts: list[str], tmp_path: Path) -> None:
        encoder = fit_lsa(texts, ContentConfig())
        encoder.save(tmp_path)
        vectors = LsaEncoder.load(tmp_path).encode([*texts, "one", "two"])
        assert np.isfinite(vectors).all()
        assert vectors[-2].any() == ("one" in texts)
        assert not vectors[-1].any()

    def test_a_folder_without_an_encoder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="expected a text encoder"):
            LsaEncoder.load(tmp_path)


class TestFresh:
    def source(self, pool: int = 12) -> FreshSource:
        scores = np.arange(40, dtype=np.float32)
        available = np.ones(40, np.bool_)
        available[39] = False
        return FreshSource(scores, item_keys([str(i) for i in range(40)]), np.eye(40, dtype=np.float32), available, pool)

    def test_over_the_turns_every_new_item_comes_equally_often_and_no_other(self) -> None:
        source = self.source()
        queries = [ask(NOTHING, turn) for turn in range(120)]
        shown = Counter(row for item_idx, _ in source.recall(queries, 4) for row in item_idx.tolist())
        assert shown == dict.fromkeys(range(27, 39), 40)

    def test_what_is_drawn_stands_newest_first(self) -> None:
        for found, _ in self.source().recall([ask(NOTHING, turn) for turn in range(12)], 4):
            assert found.tolist() == sorted(found.tolist(), reverse=True)

    def test_turns_differ_from_user_to_user_and_from_hour_to_hour(self, catalogue: Catalogue) -> None:
        def turn(user_id: str, at_us: int) -> int:
            return make_query(Request(request_id="r", user_id=user_id, at_us=at_us), catalogue, False, NOTHING).turn

        assert turn("ann", 0) == turn("ann", 3_599_999_999)
        assert len({turn(user, hour * 3_600_000_000) for user in ("ann", "bob") for hour in range(3)}) == 6

    def test_nobody_met_it_yet_is_the_newest_of_all(self, catalogue: Catalogue) -> None:
        ages = catalogue.column("item_age_days").copy()
        source = FreshSource.of(catalogue, 5)
        (found, _) = source.recall([ask(NOTHING)], 5)[0]
        assert set(found.tolist()) <= set(np.argsort(ages, kind="stable")[:8].tolist())

    def test_a_pool_of_none_is_no_error(self) -> None:
        none = np.empty(0, np.float32)
        source = FreshSource(none, np.empty(0, np.uint64), np.empty((0, 2), np.float32), np.empty(0, np.bool_), 5)
        assert not source.recall([ask(NOTHING)], 5)[0][0].size


class TestSegments:
    """In the world of `conftest` everybody likes even or odd items, and all items are of a third category."""

    def taste(self, catalogue: Catalogue, **shares: float) -> np.ndarray:
        return np.array([shares.get(name, 0) for name in catalogue.categories], np.float32)

    def test_people_of_one_taste_get_what_others_of_it_had(self, catalogue: Catalogue, users: pl.DataFrame) -> None:
        segments = Segments.build(users, catalogue)
        plain = ListSource.of(SourceName.popular, catalogue)
        source = ListSource.of(SourceName.popular, catalogue, segments)
        for kind, parity in (("even", 0), ("odd", 1)):
            query = replace(ask(NOTHING), taste=self.taste(catalogue, all=0.5, **{kind: 0.5}))
            ((found, scores), (for_all, _)) = source.recall([query], 15)[0], plain.recall([query], 15)[0]
            shares = [np.mean([int(catalogue.item_ids[row][5:]) % 2 == parity for row in rows]) for rows in (found, for_all)]
            assert shares[0] > 0.8 > 0.65 > shares[1]
            assert (np.diff(scores) <= 0).all()

    def test_a_list_is_that_of_all_times_what_its_users_had_more_often(self, catalogue: Catalogue, users: pl.DataFrame) -> None:
        segments = Segments.build(users, catalogue)
        found = segments.list_for("trending", self.taste(catalogue, all=0.5, even=0.5))
        assert found is not None
        even = [name for name in users["user_id"] if int(name[5:]) % 2 == 0]
        had = [set(seen) for name, seen in users.select("user_id", "seen").iter_rows() if name in even]
        everybody = users["seen"].explode()
        rows, scores = found
        for row, score in zip(rows[:10], scores[:10], strict=True):
            item = catalogue.item_ids[row]
            mine, share = sum(item in seen for seen in had), (everybody == item).sum() / len(everybody)
            lift = (mine + 5) / (share * sum(map(len, had)) + 5)
            assert score == pytest.approx(np.log1p(np.expm1(catalogue.column("item_trending")[row]) * lift), rel=1e-5)

    def test_who_is_unknown_or_has_no_taste_or_few_like_them_gets_the_list_of_all(
        self, catalogue: Catalogue, users: pl.DataFrame
    ) -> None:
        segments = Segments.build(users, catalogue)
        few = Segments.build(users.head(12), catalogue)
        even = self.taste(catalogue, all=0.5, even=0.5)
        assert segments.list_for("popular", np.empty(0, np.float32)) is None
        assert segments.list_for("popular", self.taste(catalogue)) is None
        assert few.list_for("popular", even) is None
        nobody = Segments.build(users.clear(), catalogue)
        assert nobody.list_for("popular", even) is None
        source, plain = (ListSource.of(SourceName.popular, catalogue, each) for each in (nobody, None))
        query = replace(ask(NOTHING), taste=even)
        assert source.recall([query], 9)[0][0].tolist() == plain.recall([query], 9)[0][0].tolist()

    def test_they_are_kept(self, catalogue: Catalogue, users: pl.DataFrame, tmp_path: Path) -> None:
        segments = Segments.build(users, catalogue)
        segments.save(tmp_path)
        taste = self.taste(catalogue, all=0.5, odd=0.5)
        for name in SEGMENTED:
            built, kept = (each.list_for(name, taste) for each in (segments, Segments.load(tmp_path)))
            assert built is not None
            assert kept is not None
            for one, two in zip(built, kept, strict=True):
                np.testing.assert_array_equal(one, two)

    def test_a_filter_that_leaves_too_few_of_a_long_list_asks_the_list_of_all(self, catalogue: Catalogue) -> None:
        class Short:
            def list_for(self, source: str, taste: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                return np.array([3, 1, 2]), np.array([3.0, 2.0, 1.0], np.float32)

        source = ListSource.of(SourceName.popular, catalogue, Short())  # type: ignore[arg-type]
        assert source.recall([ask(NOTHING)], 2)[0][0].tolist() == [3, 1]
        assert source.recall([ask(NOTHING, hidden=np.array([1, 3]))], 2)[0][0].size == 2


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"recall\.mf\.alpha"):
        MfConfig(alpha=0)
    with pytest.raises(ConfigError, match=r"recall\.content\.dimensions"):
        ContentConfig(dimensions=0)
