"""Rules from a spreadsheet: one line of CSV for each rule, for who does not write YAML.

Columns are ``name``, ``kind`` and what the kind needs of the others in `COLUMNS`; lists are parted by ``|``, and empty cells
say nothing.
"""

import csv
import io
from typing import Any

from reco_ray.rules.document import Document, parse
from reco_ray.rules.problems import RuleProblem, RulesRefused, shown

__all__ = ["COLUMNS", "read_csv"]

_WHERE = ("item_id", "category", "year", "year_from", "year_to", "price_from", "price_to")
_SEGMENT = ("device", "locale", "location", "history")
_LISTS = ("item_id", "category", "year", "surface", "device", "locale", "location")
_WHOLE = ("year", "year_from", "year_to", "position", "most", "least", "window")
_NUMBERS = ("amount", "price_from", "price_to")
_LIMITS = ("position", "amount", "most", "least", "window", "per")
COLUMNS = ("name", "kind", *_WHERE, *_LIMITS, "surface", *_SEGMENT, "starts", "ends", "note")


def read_csv(text: str) -> Document:
    """Read the lines of a sheet; ``exclusive`` rules, which name several sets, want YAML.

    Raises: RulesRefused: each problem names the rule, the column, what was found and what is allowed.
    """
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), skipinitialspace=True)
    columns = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    problems = [
        RuleProblem("", shown(name), "a column of that name", ", ".join(COLUMNS)) for name in columns if name not in COLUMNS
    ]
    problems += [
        RuleProblem("", name, "no column of that name", "one in the first line") for name in COLUMNS[:2] if name not in columns
    ]
    if problems:
        raise RulesRefused(problems)
    return parse({"rules": [_rule(line) for line in reader]})


def _rule(line: dict[str, Any]) -> dict[str, Any]:
    cells = {name: value.strip() for name, value in line.items() if name and isinstance(value, str) and value.strip()}
    if line.get(None):  # type: ignore[call-overload]
        raise RulesRefused([RuleProblem(cells.get("name", ""), "", "more cells than columns", "quotes around commas")])
    found = {name: _value(name, text) for name, text in cells.items()}
    pin = found.get("kind") == "pin"
    where = {name: found.pop(name) for name in _WHERE if name in found and not (pin and name == "item_id")}
    segment = {name: found.pop(name) for name in _SEGMENT if name in found}
    if pin and "item_id" in found:
        found["item_id"] = cells["item_id"]
    return {**found, **({"where": where} if where else {}), **({"segment": segment} if segment else {})}


def _value(name: str, text: str) -> Any:
    parts = [_number(name, part.strip()) for part in text.split("|") if part.strip()]
    return parts if name in _LISTS else _number(name, text)


def _number(name: str, text: str) -> Any:
    """A number where the column holds such; what is none stays a text, and is refused by its rule's schema."""
    try:
        return int(text) if name in _WHOLE else float(text) if name in _NUMBERS else text
    except ValueError:
        return _share(text) if name in ("most", "least") else text


def _share(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text
