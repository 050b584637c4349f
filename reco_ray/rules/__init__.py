"""Rules: a merchandiser's document comes in, a plan for each kind of request goes out; rerank applies it.

`document` says what a rule may be, `checks` what contradicts itself, `book` compiles it against a catalogue, `bounds` holds
what a slate may hold place by place.
"""

from reco_ray.rules.book import SIMILAR, RuleBook, tally
from reco_ray.rules.bounds import Bounds
from reco_ray.rules.checks import check_document, unknown_items
from reco_ray.rules.document import Document, parse, read_text
from reco_ray.rules.exposure import Pushed
from reco_ray.rules.merchandiser import read_csv
from reco_ray.rules.plan import HELD, Hits, Plan
from reco_ray.rules.problems import RuleProblem, RulesRefused
from reco_ray.rules.standing import NO_RULES, Standing

__all__ = [
    "HELD",
    "NO_RULES",
    "SIMILAR",
    "Bounds",
    "Document",
    "Hits",
    "Plan",
    "Pushed",
    "RuleBook",
    "RuleProblem",
    "RulesRefused",
    "Standing",
    "check_document",
    "parse",
    "read_csv",
    "read_text",
    "tally",
    "unknown_items",
]
