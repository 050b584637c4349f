"""`reco rules` over a real store and a real release."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reco_ray.cli.main import app
from reco_ray.errors import DataError
from reco_ray.release import release_uri, seal
from reco_ray.rules import RulesRefused

Reco = Callable[..., Result]


@pytest.fixture(scope="module")
def reco(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Reco:
    root = str(tmp_path_factory.mktemp("root"))
    target = Path(release_uri(root, "rel"))
    shutil.copytree(folder, target)
    seal(target, "rel", "v1", {})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, ["rules", *words, f"root={root}", f"store.port={port}"])

    return run


def test_rules_are_checked_put_shown_listed_and_rolled_back(reco: Reco, tmp_path: Path) -> None:
    sheet, document, wrong = tmp_path / "a.csv", tmp_path / "b.yaml", tmp_path / "c.yaml"
    sheet.write_text("name,kind,item_id\ngone,block,item-1|nobody\n")
    document.write_text("rules: [{name: spread, kind: cap, per: year, most: 1}]")
    wrong.write_text("rules: [{name: odd, kind: block, where: {category: [odb]}}]")
    checked = reco("check", str(sheet))
    assert "1 rules, nothing wrong" in checked.output
    assert "rule gone: the release does not know item 'nobody'" in checked.output
    assert "version 1: 1 rules in force" in reco("put", str(sheet), "--author", "ana", "--note", "why").output
    assert "version 2: 1 rules in force" in reco("put", str(document), "--author", "ben").output
    refused = reco("put", str(wrong), "--author", "cyd").exception
    assert isinstance(refused, RulesRefused)
    assert "rule odd, where.category: found 'odb', allowed: categories of the release: odd" in str(refused)
    shown = reco("show")
    assert "# version 2, put by ben at" in shown.output
    again = tmp_path / "again.yaml"
    again.write_text(shown.stdout)
    assert "1 rules, nothing wrong" in reco("check", str(again)).output
    assert "version 3: the 1 rules of version 1 in force" in reco("rollback", "1", "--author", "cyd").output
    assert "item-1" in reco("show").output
    assert isinstance(reco("show", "--version", "9").exception, DataError)
    listed = reco("history").output
    assert [word for word in ("rollback", "cyd", "ben", "ana", "why") if word not in listed] == []


def test_items_wait_in_the_queue_until_they_are_approved(reco: Reco, tmp_path: Path) -> None:
    document = tmp_path / "review.yaml"
    document.write_text("rules: [{name: look, kind: review, where: {item_id: [item-4, item-5]}}]")
    assert reco("put", str(document), "--author", "ana").exit_code == 0
    assert "held back" in reco("hold", "item-9", "--author", "ana", "--reason", "complaint").output
    assert "approved" in reco("approve", "item-4", "--author", "ben", "--reason", "fine").output
    waiting = reco("queue").output
    assert [item for item in ("item-5", "item-9", "complaint", "rule look") if item not in waiting] == []
    assert "item-4" not in waiting
    reco("approve", "item-9", "--author", "ben", "--reason", "fine")
    assert "item-9" not in reco("queue").output


def test_a_sheet_becomes_yaml(reco: Reco, tmp_path: Path) -> None:
    sheet = tmp_path / "a.csv"
    sheet.write_text("name,kind,item_id\ngone,block,item-1\n")
    shown = CliRunner().invoke(app, ["rules", "convert", str(sheet)])
    assert "kind: block" in shown.output
