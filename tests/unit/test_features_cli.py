"""`reco features`, as somebody at a terminal sees it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from reco_ray.cli import app
from reco_ray.features import CONTEXT_COLUMNS, USER_COLUMNS, VIEWS
from reco_ray.release import release_uri, seal


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["features", *words], env={"COLUMNS": "200"})
    return result.exit_code, result.output + str(result.exception or "")


def test_the_views_and_their_columns_are_shown() -> None:
    code, shown = run("list")
    assert code == 0
    assert all(view.name in shown for view in VIEWS)
    code, shown = run("show", "user")
    assert code == 0
    assert all(column.name in shown for column in USER_COLUMNS)
    code, shown = run("show", "context")
    assert code == 0
    assert all(column.name in shown for column in CONTEXT_COLUMNS)


def test_a_mistyped_view_is_answered_with_those_there_are() -> None:
    code, said = run("show", "usr")
    assert code != 0
    assert "view 'usr': found none, expected one of user, item, context" in said


@pytest.mark.parametrize(("other", "said"), [("v1", "both read user view v1"), ("v2", "other settings of `features`")])
def test_two_releases_are_compared(folder: Path, tmp_path: Path, other: str, said: str) -> None:
    for name, view in (("r1", "v1"), ("r2", other)):
        target = Path(release_uri(str(tmp_path), name))
        target.mkdir(parents=True)
        (target / "catalogue.arrow").write_bytes((folder / "catalogue.arrow").read_bytes())
        seal(target, name, view, {})
    code, shown = run("diff", "r1", "r2", f"root={tmp_path}")
    assert code == 0
    assert said in shown


def test_the_page_about_the_views_agrees_with_them() -> None:
    code, said = run("docs")
    assert code == 0
    assert (Path(__file__).parents[2] / "docs" / "features.md").read_text() == said, (
        "run: reco features docs > docs/features.md"
    )
