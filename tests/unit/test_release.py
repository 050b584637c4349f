"""A release is whole and untouched, or it is refused."""

import shutil
from pathlib import Path

import pytest

from reco_ray.errors import ArtifactError
from reco_ray.release import newest, open_release, release_ids, release_uri, seal, verify


@pytest.fixture
def root(folder: Path, tmp_path: Path) -> Path:
    target = Path(release_uri(str(tmp_path), "abc"))
    shutil.copytree(folder, target)
    seal(target, "abc", "view", {"made_ts": "2026-01-01"})
    return tmp_path


def test_a_sealed_release_opens_and_moves(root: Path) -> None:
    manifest = verify(open_release(str(root), "abc"))
    assert manifest.release_id == "abc"
    assert manifest.user_view == "view"
    assert "catalogue.arrow" in manifest.files


def test_a_changed_file_is_refused(root: Path) -> None:
    path = root / "releases/abc/recall.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(ArtifactError, match=r"recall.json has SHA-256 .*, expected"):
        open_release(str(root), "abc")


def test_a_missing_file_is_refused(root: Path) -> None:
    (root / "releases/abc/two_tower_vectors.npy").unlink()
    with pytest.raises(ArtifactError, match=r"two_tower_vectors.npy is missing"):
        open_release(str(root), "abc")


def test_a_file_outside_the_manifest_is_refused(root: Path) -> None:
    (root / "releases/abc/scann_docids.pkl").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"scann_docids.pkl is not in the manifest"):
        open_release(str(root), "abc")


def test_a_release_under_a_wrong_name_is_refused(root: Path) -> None:
    (root / "releases/abc").rename(root / "releases/xyz")
    with pytest.raises(ArtifactError, match="names release abc, expected xyz"):
        open_release(str(root), "xyz")


def test_an_unknown_release_names_the_known_ones(root: Path) -> None:
    with pytest.raises(ArtifactError, match=r"'nope': found none under .*expected one of \['abc'\]"):
        open_release(str(root), "nope")


def test_releases_are_listed_by_publication_and_unsealed_ones_are_not(root: Path, folder: Path) -> None:
    for name, made in (("older", "2025-01-01"), ("later", "2027-01-01")):
        shutil.copytree(folder, root / "releases" / name)
        seal(root / "releases" / name, name, "view", {"made_ts": made})
    (root / "releases/half").mkdir()
    assert release_ids(str(root)) == ["older", "abc", "later"]
    assert newest(str(root)) == "later"


def test_no_release_at_all_names_the_job(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="run publish_release or run_pipeline"):
        newest(str(tmp_path))
