"""The popular list of a release: what is shown when no stage can answer, so it holds only what may be shown to anybody."""

from pathlib import Path

import numpy as np
import orjson

from reco_ray.config import RerankConfig, SourceName
from reco_ray.features import Catalogue
from reco_ray.recall.query import Query
from reco_ray.recall.sources.lists import ListSource

__all__ = ["POPULAR", "write_popular"]

POPULAR = "popular.json"
_FORMAT = 1
_MOST = 500


def write_popular(folder: Path, catalogue: Catalogue, config: RerankConfig) -> int:
    """Write the 500 best items of the source ``popular`` that are available and not blocked; returns how many there are.

    Categories are those that the catalogue has a column for, the ones that filters know.
    """
    blocked = catalogue.find(config.blocked)
    hidden = np.unique(np.concatenate([blocked[blocked >= 0], np.flatnonzero(~catalogue.available)]))
    query = Query(np.empty(0, np.int64), np.empty(0, np.float32), hidden)
    rows, scores = ListSource.of(SourceName.popular, catalogue).recall([query], _MOST)[0]
    items = [
        {
            "item_id": catalogue.item_ids[row],
            "title": catalogue.titles[row],
            "categories": [catalogue.categories[c] for c in np.flatnonzero(catalogue.in_category[row])],
            "year": int(catalogue.years[row]),
            "price": None if np.isnan(catalogue.prices[row]) else float(catalogue.prices[row]),
            "score": round(float(score), 6),
        }
        for row, score in zip(rows, scores, strict=True)
    ]
    content = {"format": _FORMAT, "seen_items_return": config.seen_items_return, "items": items}
    (folder / POPULAR).write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    return len(items)
