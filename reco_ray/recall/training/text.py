"""Fit text encoders to the items of a catalogue."""

from collections.abc import Sequence

import numpy as np

from reco_ray.config import ContentConfig
from reco_ray.recall.sources.lsa import LsaEncoder, words

__all__ = ["fit_lsa"]

_DOCUMENTS = 200_000
_RARE = 1_000  # documents from which on a word must stand in two of them


def fit_lsa(documents: Sequence[str], config: ContentConfig) -> LsaEncoder:
    """Fit the encoder ``lsa``; to the first 200,000 texts where there are more, so they should be in an order without meaning.

    The same texts give the same encoder: BLAS, whose sums depend on its threads, gets one.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from threadpoolctl import threadpool_limits

    seen = [text for text in documents[:_DOCUMENTS] if words(text)]
    if not seen:
        return LsaEncoder([], np.empty(0, np.float32), np.empty((0, 1), np.float32))
    weigh = TfidfVectorizer(
        analyzer=words, sublinear_tf=True, min_df=2 if len(seen) >= _RARE else 1, max_features=config.vocabulary
    )
    matrix = weigh.fit_transform(seen)
    vocabulary = weigh.get_feature_names_out().tolist()
    dimensions = min(config.dimensions, min(matrix.shape) - 1)
    if dimensions < 1:  # one text or one word: nothing to project
        projection = np.eye(len(vocabulary), dtype=np.float32)
    else:
        with threadpool_limits(1, "blas"):
            projection = TruncatedSVD(dimensions, random_state=0).fit(matrix).components_.T
    return LsaEncoder(vocabulary, weigh.idf_.astype(np.float32), projection.astype(np.float32))
