"""The text encoder ``lsa``: weighted words, projected to a few dimensions in which words that occur together are near.

`training.text` fits it with scikit-learn; here the same pass stands in plain Python and SciPy, for items that are new and for
what people type. A test holds the two equal.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix

from reco_ray.errors import ArtifactError

__all__ = ["LsaEncoder", "words"]

_WORD = re.compile(r"[^\W_]+")
_FILE = "content_lsa.safetensors"
_WORDS = "content_words.json"


def words(text: str) -> list[str]:
    """Words and numbers of a text, without case and accents; in languages without spaces a whole run is one word."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return _WORD.findall("".join(c for c in plain if not unicodedata.combining(c)))


class LsaEncoder:
    """Contract of `content.TextEncoder`.

    Args:
        vocabulary: the words that count. idf: their weights, shape (v,). projection: shape (v, d).
    Reference: Deerwester et al. 1990, Indexing by Latent Semantic Analysis.
    """

    def __init__(self, vocabulary: Sequence[str], idf: NDArray[np.float32], projection: NDArray[np.float32]) -> None:
        self._vocabulary, self._idf, self._projection = list(vocabulary), idf, projection
        self._column = {word: column for column, word in enumerate(vocabulary)}

    def encode(self, documents: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of texts, zeros for one without a word that counts, shape (n, d)."""
        columns: list[int] = []
        counts: list[int] = []
        offsets = [0]
        for document in documents:
            found = Counter(self._column[word] for word in words(document) if word in self._column)
            columns += found.keys()
            counts += found.values()
            offsets.append(len(columns))
        weights = ((1 + np.log(np.array(counts, np.float64))) * self._idf[columns]).astype(np.float32)
        x = csr_matrix((weights, columns, offsets), (len(documents), self._idf.size)) @ self._projection
        return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12), np.float32)

    def save(self, folder: Path) -> None:
        """Write the encoder into a release's folder."""
        save_file({"idf": self._idf, "projection": np.ascontiguousarray(self._projection)}, str(folder / _FILE))
        (folder / _WORDS).write_text(json.dumps(self._vocabulary, ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path) -> "LsaEncoder":
        """Read what `save` wrote.

        Raises: ArtifactError: the files are not there.
        """
        if not (folder / _FILE).is_file():
            raise ArtifactError(f"{folder}: found no {_FILE}, expected a text encoder; publish the release again")
        arrays = load_file(str(folder / _FILE))
        return cls(json.loads((folder / _WORDS).read_text()), arrays["idf"], arrays["projection"])
