"""An index in a release's folder: vectors, ScaNN's files, and what was measured. Several may stand there under their names."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reco_ray.errors import ArtifactError
from reco_ray.recall.index.live import LiveSearcher
from reco_ray.recall.index.searcher import load_searcher
from reco_ray.recall.index.tuning import Tuning

__all__ = ["index_facts", "known", "read_index", "vectors_file", "write_index"]


def vectors_file(folder: Path, name: str) -> Path:
    """Where the vectors of an index stand, as a NumPy file."""
    return folder / f"{name}_vectors.npy"


def known(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Rows that have a vector, ascending: those that are indexed. Where none has one all, because ScaNN cannot be empty."""
    rows = np.flatnonzero(vectors.any(axis=1))
    return rows if rows.size else np.arange(len(vectors))


def write_index(folder: Path, name: str, vectors: NDArray[np.float32], searcher: LiveSearcher) -> None:
    """Write a searcher over the rows that have a vector, ascending."""
    np.save(vectors_file(folder, name), vectors)
    _tuning_file(folder, name).write_text(json.dumps(searcher.tuning.to_json(), indent=1))
    target = folder / f"{name}_index"
    target.mkdir()
    # absolute here, relative inside: otherwise the index would not load from another place
    searcher.searcher.serialize(str(target.absolute()), relative_path=True)


def read_index(folder: Path, name: str) -> tuple[NDArray[np.float32], LiveSearcher]:
    """Vectors by row and the searcher over them.

    Raises:
        ArtifactError: there is none. NotReadyError: this CPU cannot run ScaNN.
    """
    path = _tuning_file(folder, name)
    if not path.is_file():
        raise ArtifactError(f"{folder}: found no {path.name}, expected it; publish the release again")
    vectors = np.load(vectors_file(folder, name), allow_pickle=False)
    tuning = Tuning.from_json(json.loads(path.read_text()))
    # until November 2026 rows without a vector were indexed as well
    rows = np.arange(len(vectors)) if tuning.rows == len(vectors) else known(vectors)
    return vectors, LiveSearcher(load_searcher(folder / f"{name}_index"), rows, tuning)


def index_facts(folder: Path) -> dict[str, Any]:
    """What a release's manifest says of its indexes, by name: rows, leaves, target, and what each size of answer took."""
    found = {path.name.removesuffix("_index.json"): json.loads(path.read_text()) for path in folder.glob("*_index.json")}
    return {name: {k: v for k, v in said.items() if k != "curve"} for name, said in sorted(found.items())}


def _tuning_file(folder: Path, name: str) -> Path:
    return folder / f"{name}_index.json"
