"""ScaNN's searchers: a quantized tree for large catalogues, brute force for small ones. Only this file imports scann."""

import platform
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reco_ray.errors import NotReadyError

__all__ = ["check_cpu", "exact_searcher", "leaves_for", "load_searcher", "tree_searcher"]

_CPUINFO = Path("/proc/cpuinfo")
_X86 = {"x86_64", "amd64"}
_NEEDED = {"avx", "fma"}  # what ScaNN's x86 wheels are compiled for, by its own README
_SAMPLE = 250_000  # vectors that train the tree and the codebooks


def exact_searcher(vectors: NDArray[np.float32]) -> Any:
    """Brute force: exact, and the same in every build."""
    return _scann().builder(vectors, min(100, len(vectors)), "dot_product").score_brute_force().build()


def tree_searcher(vectors: NDArray[np.float32], leaves: int, threads: int = 0) -> Any:
    """A tree of ``leaves`` partitions, 2 dimensions per block of an anisotropic quantization, and exact rescoring.

    Building lets other Python threads run; ScaNN's own ``rebalance`` does not, it would stop a replica for as long as it takes.

    Args:
        threads: that train it; 0: all cores.
    Reference: Guo et al. 2020, Accelerating Large-Scale Inference with Anisotropic Vector Quantization.
    """
    n = len(vectors)
    builder = _scann().builder(vectors, min(100, n), "dot_product")
    # what is searched is said with each search, so the numbers that stand here are never used
    builder = builder.tree(num_leaves=leaves, num_leaves_to_search=leaves, training_sample_size=min(n, _SAMPLE))
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(min(200, n))
    return builder.set_n_training_threads(threads).build()


def leaves_for(n: int) -> int:
    """Of a tree over n vectors: 2 sqrt(n), a third faster than sqrt(n) at the same recall with 10^6 (docs/decisions/0018)."""
    return max(1, int(2 * np.sqrt(n)))


def load_searcher(folder: Path) -> Any:
    """Read what a searcher's ``serialize`` wrote."""
    return _scann().load_searcher(str(folder.absolute()))


def check_cpu(machine: str, cpuinfo: str) -> None:
    """Refuse a CPU that would end the process with an illegal instruction as soon as ScaNN is imported.

    Args:
        machine: `platform.machine`. cpuinfo: text of /proc/cpuinfo; empty where there is none, which is no reason to refuse.
    Raises: NotReadyError: an x86 CPU without AVX or FMA.
    """
    flags = next((line.split(":", 1)[1].split() for line in cpuinfo.splitlines() if line.startswith("flags")), None)
    if machine.lower() in _X86 and flags is not None and (lacking := _NEEDED - set(flags)):
        raise NotReadyError(f"this x86-64 CPU lacks {', '.join(sorted(lacking))}; {_REMEDY}")


_REMEDY = (
    "scann expects Linux on an x86-64 CPU with AVX and FMA, or on ARM64; use such a machine, or leave out the sources that "
    "search by vectors (recall.quotas.two_tower=0)"
)


def _scann() -> Any:
    check_cpu(platform.machine(), _CPUINFO.read_text() if _CPUINFO.is_file() else "")
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except ImportError as exc:
        raise NotReadyError(f"scann cannot be imported ({exc}); {_REMEDY}") from exc
    return scann_ops_pybind
