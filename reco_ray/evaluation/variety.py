"""What variety costs: the served pipeline with the knob ``rerank.diversity`` at several places, for each kind of diversity."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from reco_ray.config import Diversify
from reco_ray.evaluation import charts
from reco_ray.evaluation.bootstrap import Interval

__all__ = ["PLACES", "Variety", "variety_section"]

PLACES = tuple((kind, at) for kind in Diversify for at in (0.05, 0.2, 0.5))
"""Of the knob; at 0, which is measured as well, all kinds keep the ranker's order."""


@dataclass(frozen=True, slots=True)
class Variety:
    """Lists of one place of the knob.

    Attributes:
        kind: name of a `Diversify`; "none" at 0. at: of the knob.
        ndcg, diversity: means over users; ``diversity`` is 1 - mean cosine of the pairs of a list.
    """

    kind: str
    at: float
    ndcg: Interval
    diversity: Interval

    @property
    def name(self) -> str:
        """As readers see it."""
        return self.kind if self.kind == "none" else f"{self.kind} {self.at:g}"


def variety_section(found: Sequence[Variety], k: int) -> str:
    """A part of the report's page; empty where nothing was measured."""
    if not found:
        return ""
    rows = "".join(
        f"<tr><th scope=row>{escape(each.name)}</th><td>{_cell(each.ndcg)}</td><td>{_cell(each.diversity)}</td></tr>"
        for each in found
    )
    marks = [charts.Mark(each.name, each.ndcg, "source", each.diversity.mean) for each in found if each.diversity.mean > 0]
    drawing = charts.scatter(marks, "Accuracy and variety", "diversity (log scale)", f"NDCG@{k}") if marks else ""
    return (
        "<section><h2>What variety costs</h2><p class=soft>The same candidates and scores, with <code>rerank.diversity</code> "
        "at several places; <code>rerank.diversify</code> names the kind. Without exploration and rules.</p>"
        '<div class="wide" role="region" aria-label="Variety" tabindex=0><table><thead><tr><th scope=col>Diversity</th>'
        f"<th scope=col>NDCG@{k}</th><th scope=col>Unlike each other</th></tr></thead><tbody>{rows}</tbody></table></div>"
        f"{drawing}</section>"
    )


def _cell(found: Interval) -> str:
    bounds = f"<small>{found.low:.3f}–{found.high:.3f}</small>" if found.known else ""
    return f"{found.mean:.3f}{bounds}"
