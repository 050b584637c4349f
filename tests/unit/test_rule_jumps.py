"""Jumps of rules: said once when a rate leaves what is usual, and never for noise, traffic or a new version."""

import logging

import numpy as np
import pytest

from reco_ray.rules import Pushed
from reco_ray.rules.jumps import LEAST_SLATES, Jump, Jumps
from reco_ray.serve.path.rules import tell

KEY = ("r", "hidden")


class Watched(Jumps):
    """Jumps, told of slates by their number."""

    total = 0

    def more(self, told: dict[tuple[str, str], int], slates: int, version: int = 1) -> list[Jump]:
        self.total += slates
        return self.add(told, self.total, version)


def watch(jumps: Watched, rates: list[float], seed: int = 3, slates: int = LEAST_SLATES, spread: int = 5) -> list[Jump]:
    """Stretches of slates with so many hits each on average; hits come ``spread`` at a time, as blocked items do."""
    rng = np.random.default_rng(seed)
    found = []
    for rate in rates:
        hits = int(rng.poisson(rate * slates / spread)) * spread
        found += jumps.more({KEY: hits} if hits else {}, slates)
    return found


def begun() -> Watched:
    jumps = Watched()
    assert jumps.more({KEY: 1_000}, 10) == [], "some of the first report is of the rules before"
    return jumps


def test_noise_and_traffic_are_no_jumps() -> None:
    assert watch(begun(), [0.5] * 2_000) == []
    jumps = begun()
    assert [jump for slates in (200, 5_000, 300, 20_000) * 50 for jump in watch(jumps, [0.5], slates, slates)] == []
    assert watch(begun(), [0.02] * 1_000, spread=1) == [], "few hits come and go"


@pytest.mark.parametrize("rate", [2.0, 0.0])
def test_a_jump_and_a_fall_to_nothing_are_said_once(rate: float) -> None:
    (jump,) = watch(begun(), [0.6] * 20 + [rate] * 20)
    assert (jump.rule, jump.effect) == KEY
    assert jump.usual == pytest.approx(0.6, abs=0.15)
    assert jump.now == pytest.approx(rate, abs=0.5)


def test_a_rule_that_never_did_anything_and_starts_to_is_a_jump() -> None:
    (jump,) = watch(begun(), [0.0] * 10 + [1.0] * 10)
    assert jump.usual == 0


def test_another_version_and_too_few_slates_begin_or_wait() -> None:
    jumps = begun()
    assert watch(jumps, [0.5] * 10) == []
    assert jumps.more({KEY: 9_000}, LEAST_SLATES, 2) == []
    assert [jump for _ in range(100) for jump in jumps.more({KEY: 0}, LEAST_SLATES, 2)] == []
    waiting = begun()
    watch(waiting, [0.5] * 10)
    assert waiting.more({KEY: 9_000}, LEAST_SLATES - 1) == []
    assert len(waiting.more({}, 1)) == 1


class Stage:
    """Did what it is told it did."""

    def __init__(self) -> None:
        self.arranged, self.next = 0, 0

    def rule_hits(self) -> dict[tuple[str, str], int]:
        self.arranged += LEAST_SLATES
        return {("top", "missed"): self.next}

    def pushed(self) -> list[Pushed]:
        return [Pushed("few", 0.1, 0.5, 9, 0.02)]


class Counts:
    def __init__(self) -> None:
        self.told: list[dict[tuple[str, str], int]] = []
        self.jumps: list[tuple[str, str]] = []

    def in_force(self, version: int) -> None:
        pass

    def hits(self, told: dict[tuple[str, str], int]) -> None:
        self.told.append(told)

    def jumped(self, rule: str, effect: str) -> None:
        self.jumps.append((rule, effect))

    def pushed(self, rule: str, share: float, amount: float, cost: float) -> None:
        self.stands = rule, share, amount, cost


def test_a_jump_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    stage, counts, jumps = Stage(), Counts(), Jumps()
    with caplog.at_level(logging.WARNING):
        for n in [20] * 10 + [180] * 5:
            stage.next = n
            tell(stage, counts, jumps, version=1)  # type: ignore[arg-type]
    assert counts.jumps == [("top", "missed")]
    assert counts.stands == ("few", 0.1, 0.5, 0.02)
    assert len(counts.told) == 15
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("rule top: found 0.9 missed for each slate, expected about 0.1 as before; see")
