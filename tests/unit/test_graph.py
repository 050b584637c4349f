"""Steps: fresh outputs are kept, missing ones and all after them are made again, a killed run leaves nothing that counts."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from reco_ray.compose import compose_config
from reco_ray.config import PipelineConfig
from reco_ray.errors import ArtifactError, ConfigError
from reco_ray.workflow.graph import Step, Work, run_all, run_one
from reco_ray.workflow.steps import STEPS


class World:
    """Three steps in a row and one aside, that write down when they ran."""

    def __init__(self, root: Path) -> None:
        self.config: PipelineConfig = compose_config([f"root={root}"])
        self.ran: list[str] = []
        self.fails = ""
        self.steps = [
            self.step("import", ()),
            self.step("features", ("import",)),
            self.step("aside", ("import",)),
            self.step("train", ("features",), lambda c: c.rank.max_depth),
        ]

    def step(self, name: str, after: tuple[str, ...], settings: object = lambda c: None) -> Step:
        def body(work: Work) -> Mapping[str, object]:
            (work.folder / "data").write_text(f"{name} of {sorted(o.content for o in work.inputs.values())}")
            if self.fails == name:
                raise RuntimeError("killed")
            self.ran.append(name)
            return {"rows": 3}

        return Step(name, after, settings, body)  # type: ignore[arg-type]

    def run(self) -> list[str]:
        self.ran.clear()
        run_all(self.steps, self.config)
        return self.ran.copy()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_settings_that_a_step_cannot_use_are_refused_before_the_first_step_runs(tmp_path: Path) -> None:
    for override, said in (
        ("rank.hybrid.by=user_event", r"rank\.hybrid\.by: found 'user_event', expected one of "),
        ("rank.declared_sensitive=[user_age]", r"rank\.declared_sensitive"),
    ):
        config = compose_config([f"root={tmp_path}", "rank=hybrid", override])
        with pytest.raises(ConfigError, match=said):
            run_all(STEPS, config)
        with pytest.raises(ConfigError, match=said):
            run_one(STEPS, config, "build_training_set")
    assert not (tmp_path / "steps").exists()


def test_a_second_run_does_nothing(world: World) -> None:
    assert world.run() == ["import", "features", "aside", "train"]
    assert world.run() == []


def test_a_deleted_output_brings_back_itself_and_what_follows_it(world: World) -> None:
    world.run()
    shutil.rmtree(Path(world.config.root) / "steps/features")
    assert world.run() == ["features", "train"]


def test_a_changed_setting_runs_its_step_and_the_old_output_stays(world: World) -> None:
    world.run()
    world.config.rank.max_depth = 9
    assert world.run() == ["train"]
    world.config.rank.max_depth = 4
    assert world.run() == []


def test_a_step_killed_half_way_leaves_no_output_and_the_next_run_ends_the_same(world: World, tmp_path: Path) -> None:
    world.fails = "features"
    with pytest.raises(RuntimeError, match="killed"):
        world.run()
    assert not (Path(world.config.root) / "steps/features").exists()
    world.fails = ""
    assert world.run() == ["features", "aside", "train"]
    undisturbed = World(tmp_path / "other")
    undisturbed.run()
    one, other = (run_one(w.steps, w.config, "train") for w in (world, undisturbed))
    assert one.content == other.content


def test_an_output_without_one_of_its_files_is_made_again(world: World) -> None:
    world.run()
    next((Path(world.config.root) / "steps/train").glob("*/data")).unlink()
    assert world.run() == ["train"]


def test_one_step_wants_the_outputs_before_it_and_names_the_job(world: World) -> None:
    with pytest.raises(ArtifactError, match=r"found no output of import .*run python jobs/import.py"):
        run_one(world.steps, world.config, "train")
    world.run()
    world.ran.clear()
    assert run_one(world.steps, world.config, "train").facts["rows"] == 3
    assert world.ran == []
