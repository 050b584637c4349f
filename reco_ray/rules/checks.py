"""What a document of well-formed rules must not hold: contradictions, and names that a release does not know."""

import difflib
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from reco_ray.features import Catalogue
from reco_ray.rules.document import Block, Cap, Document, Exclusive, Pin, Rule, Where
from reco_ray.rules.problems import RuleProblem, RulesRefused, shown

__all__ = ["check_document", "unknown_items", "wheres"]


def check_document(document: Document, catalogue: Catalogue | None = None) -> None:
    """Refuse what contradicts itself, categories that a release does not know, and prices where it knows none.

    Args:
        catalogue: of the release in use; None where there is none yet.
    Raises: RulesRefused.
    """
    problems = [*_repeated(document.rules), *_pins(document.rules)]
    if catalogue is not None:
        problems += _strange(document.rules, catalogue)
    if problems:
        raise RulesRefused(problems)


def unknown_items(document: Document, catalogue: Catalogue) -> list[tuple[str, str]]:
    """Rules and item ids that the release does not know: they may come yet, or be misspelt."""
    named = [(rule.name, item_id) for rule in document.rules for item_id in _ids(rule)]
    rows = catalogue.find([item_id for _, item_id in named])
    return [each for each, row in zip(named, rows.tolist(), strict=True) if row < 0]


def wheres(rule: Rule) -> tuple[Where, ...]:
    """The sets of items that a rule names."""
    if isinstance(rule, Exclusive):
        return rule.sets
    if isinstance(rule, Pin) or (isinstance(rule, Cap) and rule.where is None):
        return ()
    return (rule.where,) if rule.where is not None else ()


def _repeated(rules: Sequence[Rule]) -> Iterator[RuleProblem]:
    seen: set[str] = set()
    for rule in rules:
        if rule.name in seen:
            yield RuleProblem(rule.name, "name", "two rules of that name", "distinct names")
        seen.add(rule.name)


def _pins(rules: Sequence[Rule]) -> Iterator[RuleProblem]:
    pins = [rule for rule in rules if isinstance(rule, Pin)]
    for one, other in combinations(pins, 2):
        if one.position != other.position and one.item_id != other.item_id:
            continue
        if not _meet(one, other):
            continue
        if one.position == other.position:
            yield RuleProblem(
                other.name, "position", f"{other.position}, where rule {one.name} pins as well", "one pin to a place"
            )
        else:
            yield RuleProblem(
                other.name, "item_id", f"{shown(other.item_id)}, which rule {one.name} pins as well", "one place to an item"
            )
    blocks = [(rule, set(rule.where.item_id or ())) for rule in rules if isinstance(rule, Block) and rule.where.by_id_alone]
    for pin in pins:
        for block, ids in blocks:
            if pin.item_id in ids and _meet(pin, block):
                found = f"{shown(pin.item_id)}, which rule {block.name} blocks"
                yield RuleProblem(pin.name, "item_id", found, "an item that may be shown")


def _meet(one: Rule, other: Rule) -> bool:
    """Whether a request can come that both hold for."""
    for mine, others in (
        (one.surface, other.surface),
        (one.segment.device, other.segment.device),
        (one.segment.locale, other.segment.locale),
        (one.segment.location, other.segment.location),
    ):
        if mine and others and not set(mine) & set(others):
            return False
    if one.segment.history and other.segment.history and one.segment.history != other.segment.history:
        return False
    for first, second in ((one, other), (other, one)):
        if first.ends and second.starts and first.ends <= second.starts:
            return False
    return True


def _strange(rules: Sequence[Rule], catalogue: Catalogue) -> Iterator[RuleProblem]:
    known, priced = catalogue.categories, bool(np.isfinite(catalogue.prices).any())
    for rule in rules:
        for where in wheres(rule):
            for field, price in (("price_from", where.price_from), ("price_to", where.price_to)):
                if price is not None and not priced:
                    allowed = "prices once the release knows some: it knows none; import or put items with prices, and publish"
                    yield RuleProblem(rule.name, f"where.{field}", shown(price), allowed)
            for name in where.category or ():
                if name not in known:
                    near = difflib.get_close_matches(name, known, 3) or known[:8]
                    yield RuleProblem(rule.name, "where.category", shown(name), "categories of the release: " + ", ".join(near))


def _ids(rule: Rule) -> tuple[str, ...]:
    if isinstance(rule, Pin):
        return (rule.item_id,)
    return tuple(item_id for where in wheres(rule) for item_id in where.item_id or ())
