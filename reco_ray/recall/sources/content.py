"""The content source: items whose texts are near to those of the history. It needs no event of an item, only its text.

A text encoder makes vectors of titles, texts, categories and decades; a user's is the mean over the history, where what is
newer and stronger counts more. What people type is a text too (`find`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reco_ray.config import ContentConfig, EncoderName, RecallConfig
from reco_ray.features import Catalogue
from reco_ray.recall.index import Probe, Report, VectorIndex, nearest
from reco_ray.recall.query import Hits, Query
from reco_ray.recall.sources.lsa import LsaEncoder

__all__ = ["INDEX", "ContentSource", "TextEncoder", "documents_of"]

INDEX = "content"
_DECAY = 0.95  # per step back in the history, as for the neighbours of `covisit`
_NOTHING: Hits = (np.empty(0, np.int64), np.empty(0, np.float32))


class TextEncoder(Protocol):
    """Makes vectors of texts."""

    def encode(self, documents: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, zeros for a text that says nothing, shape (n, d); each depends on its own text alone."""

    def save(self, folder: Path) -> None:
        """Write the encoder into a release's folder."""


def documents_of(items: pl.DataFrame) -> list[str]:
    """The text of each item: title, text, categories and decade, as far as they are known.

    Args:
        items: rows of `schema.ITEMS`.
    """
    decade = pl.format("{}s", pl.col("year") // 10 * 10) if "year" in items.columns else pl.lit(None, pl.String)
    known = pl.col("year") > 0 if "year" in items.columns else pl.lit(False)
    text = pl.col("text") if "text" in items.columns else pl.lit(None, pl.String)
    parts = ("title", text, pl.col("categories").list.join(" "), pl.when(known).then(decade))
    return items.select(pl.concat_str(*parts, separator=". ", ignore_nulls=True).fill_null("")).to_series().to_list()


class ContentSource:
    """Items whose text vectors are nearest to the decayed mean of the history's.

    Args:
        index: over the vectors of the catalogue's items, in its order.
    """

    def __init__(self, encoder: TextEncoder, index: VectorIndex) -> None:
        self._encoder, self._index = encoder, index
        self._probe: Probe | None = None

    @classmethod
    def build(cls, items: pl.DataFrame, catalogue: Catalogue, config: RecallConfig) -> "ContentSource":
        """Fit the encoder to the items' texts, and index them.

        Args:
            items: rows of `schema.ITEMS`, those of the catalogue in any order.
        """
        texts = np.array(documents_of(items), object)[np.argsort(catalogue.find(items["item_id"].to_list()))].tolist()
        encoder = _fit(config.content, texts)
        return cls(encoder, VectorIndex.build(encoder.encode(texts), config.exact_below, config.recall_target))

    def save(self, folder: Path) -> None:
        """Write encoder and index into a release's folder."""
        self._encoder.save(folder)
        self._index.save(folder, INDEX)

    @classmethod
    def load(cls, folder: Path, encoder: EncoderName) -> "ContentSource":
        """Read what `save` wrote."""
        match encoder:
            case EncoderName.lsa:
                return cls(LsaEncoder.load(folder), VectorIndex.load(folder, INDEX))

    def watch(self, report: Report) -> None:
        """Contract of `query.Watched`."""
        self._probe = Probe(self._index, report)

    def recall(self, queries: list[Query], k: int) -> list[Hits]:
        """Search once for all queries whose history has texts; contract of `query.Source`."""
        points = [self._point(query) for query in queries]
        return self._search(queries, points, k)

    def find(self, text: str, k: int, hidden: NDArray[np.int64] | None = None) -> Hits:
        """Return at most ``k`` items whose texts are nearest to what somebody typed; none when it holds no known word.

        Args:
            hidden: rows that must not come back, sorted.
        """
        none = np.empty(0, np.int64)
        query = Query(none, np.empty(0, np.float32), none if hidden is None else hidden)
        return self._search([query], [self._encoder.encode([text])[0]], k)[0]

    def encode(self, items: pl.DataFrame) -> NDArray[np.float32]:
        """Vectors of items that the catalogue need not know, shape (n, d).

        Args:
            items: rows of `schema.ITEMS`.
        """
        return self._encoder.encode(documents_of(items))

    def _search(self, queries: list[Query], points: list[NDArray[np.float32]], k: int) -> list[Hits]:
        asked = [i for i, point in enumerate(points) if point.any()]
        out = [_NOTHING] * len(queries)
        if asked:
            found = nearest(self._index, np.stack([points[i] for i in asked]), [queries[i] for i in asked], k, self._probe)
            for i, (rows, scores) in zip(asked, found, strict=True):
                told = self._index.vectors[rows].any(axis=1)
                out[i] = rows[told], scores[told]
        return out

    def _point(self, query: Query) -> NDArray[np.float32]:
        vectors = self._index.vectors
        known = query.history < len(vectors)
        weights = (query.weights * _DECAY ** np.arange(query.history.size)[::-1])[known]
        mean = weights @ vectors[query.history[known]]
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)


def _fit(config: ContentConfig, texts: list[str]) -> TextEncoder:
    match config.encoder:
        case EncoderName.lsa:
            from reco_ray.recall.training.text import fit_lsa

            return fit_lsa(texts, config)
