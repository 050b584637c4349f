"""The page about the feature views in the documentation: made of their definitions, never written by hand."""

from collections.abc import Iterable

from reco_ray.features.views import VIEWS, Column, View

__all__ = ["page"]

_HEAD = """# Feature views

Made by `reco features docs > docs/features.md`; a test fails where it does not agree with the code. All columns are float32.
An event that is not in the features within a view's limit makes it late: `reco features status`.
"""


def page(views: Iterable[View] = VIEWS) -> str:
    """Return the page as Markdown."""
    return _HEAD + "".join(_section(view) for view in views)


def _section(view: View) -> str:
    fresh = f"Fresh within {view.freshness_s:g} s." if view.freshness_s else "Made with each request."
    lines = [
        f"\n## {view.name}\n",
        f"{view.description} Entity: {view.entity}. From: {', '.join(view.sources)}. {fresh} Owner: {view.owner}.\n",
        "| column | unknown | what it is |\n|---|---|---|",
        *(_row(column.name, column) for column in view.columns),
        *(_row(f"{column.name}:<category>", column) for column in view.per_category),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, column: Column) -> str:
    return f"| `{name}` | {column.default:g} | {column.description}{' (sensitive)' * column.sensitive} |"
