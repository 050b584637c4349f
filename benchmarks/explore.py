"""Exploration and off-policy evaluation, in a simulated world whose truth is known.

``python benchmarks/explore.py --out FILE [--plot FILE.svg]`` measures, with fixed seeds:

- whether items come with the odds that are logged, and whether a logger that is wrong by a fifth of the rate is caught;
- what a bandit over sources earns against choosing among them alike, where the best one depends on the circumstances
  (`explore_bandit`);
- whether estimates from the logs of one policy hold the truth of others, and are refused where nothing was logged
  (`explore_estimates`);
- what exploration earns over HTTP once new items come, against the same shop without it (`explore_http`). This part alone needs
  Ray; ``--slots 0 --repetitions 0 --bandits 0`` leaves the others out, ``--worlds 0`` this one.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from explore_bandit import bandit_rewards
from explore_estimates import estimates
from explore_gain import save, worlds_of
from explore_http import checks_of, measure, plotted
from rich.console import Console

from reco_ray.config import ExploreConfig, ExploreKind, RerankConfig
from reco_ray.evaluation.propensities import agreement
from reco_ray.rerank.policy import Scored, Sources, make_policy

KINDS = (ExploreKind.uniform, ExploreKind.plackett_luce, ExploreKind.thompson, ExploreKind.linucb)
_GROUPS = 8  # of the outcomes of a place: the next item, newcomers, and the others by their place in the arranged list
_K = 10


def odds(slots: int, seed: int) -> dict[str, dict[str, float]]:
    """Test so many places of each kind against what is logged, and against what a logger of another rate would have."""
    found = {}
    for kind in KINDS:
        rng = np.random.default_rng(seed)
        logged, wrong, taken = [], [], []
        for _ in range(slots // _K):
            scores, keys = rng.standard_normal(60).astype(np.float32), np.arange(60, dtype=np.uint64)
            in_category = (rng.random((60, 6)) < 0.3).astype(np.float32)
            events = rng.integers(0, 200, 60)

            parts = Scored(scores, keys, events, in_category, np.arange(60))
            config = RerankConfig(diversity_pool=25, explore=ExploreConfig(kind=kind, rate=0.1, newcomers=10))
            sources = None
            if kind is ExploreKind.linucb:
                sources = Sources(rng.random((60, 4)) < 0.3, rng.random(4))
            policy = make_policy(config, parts, _K, explores=True, sources=sources)[1]
            drawn = policy.draw(_K, rng)
            each = policy.follow(drawn.chosen, every=True)
            group = np.minimum(np.argsort(policy.arranged) // 6, _GROUPS - 2) + 1
            for place in range(_K):
                left = np.ones(policy.arranged.size, bool)
                left[drawn.chosen[:place]] = False
                best = policy.arranged[left[policy.arranged].argmax()]
                of_place = np.where(np.arange(left.size) == best, 0, group)
                right = np.bincount(of_place, each.slots[place], _GROUPS)
                base = (right - (np.arange(_GROUPS) == 0) * 0.9) / 0.1
                logged.append(right)
                wrong.append(0.12 * base + (np.arange(_GROUPS) == 0) * 0.88)
                taken.append(of_place[drawn.chosen[place]])
        outcomes = np.array(taken)
        p = {"slots": len(taken), "p": agreement(np.array(logged), outcomes), "p_wrong": agreement(np.array(wrong), outcomes)}
        found[kind.name] = p
    return found


def main(
    out: Annotated[Path, typer.Option()],
    plot: Annotated[Path | None, typer.Option()] = None,
    slots: int = 100_000,
    repetitions: int = 200,
    draws: int = 1_500,
    bandits: int = 20,
    worlds: int = 24,
    visits: int = 3_000,
    rate: float = 60.0,
    minutes: float = 600.0,
    seed: int = 201,
) -> None:
    """Measure and write the result; a part whose size is 0 is left out. Worlds that ``out`` has already are not run again."""
    settings = {"visits": visits, "rate": rate, "seed": seed}
    found: dict[str, Any] = {"checks": [], "settings": settings, "worlds": worlds_of(out, settings)}

    def note(part: str, result: dict[str, Any], *checks: tuple[str, float, str]) -> None:
        """Write after each part: together they take long."""
        found[part] = result
        found["checks"] += [{"name": name, "value": value, "unit": unit} for name, value, unit in checks]
        save(out, found)
        for name, value, unit in checks:
            Console().print(f"{name} = {value:.4g} ({unit})")

    if slots:
        chance = odds(slots, seed)
        right, wrong = min(each["p"] for each in chance.values()), max(each["p_wrong"] for each in chance.values())
        note(
            "odds",
            chance,
            ("propensity_chi2_p", right, "p, least of four kinds"),
            ("propensity_chi2_p_of_wrong_logger", wrong, "p, largest of four kinds"),
        )
    if repetitions:
        judged = estimates(repetitions, draws, seed)
        note(
            "estimates",
            judged,
            ("ope_coverage", judged["coverage"], "share of 95% intervals"),
            ("ope_median_width", judged["median_width"], "share of the true value"),
            ("ope_refused_without_support", judged["refused_without_support"], "share of estimates"),
        )
    if bandits:
        learned = bandit_rewards(bandits, visits, seed)
        note(
            "bandit",
            learned,
            ("explore_bandit_gain", learned["gain"], "ratio of click rates, linucb less sources alike, in-process"),
            ("explore_bandit_gain_low", learned["low"], "ratio, lower end of 95%"),
        )
    if worlds:
        reward = measure(found["worlds"], lambda: save(out, found), worlds, visits, rate, minutes, seed)
        note("reward", reward, *checks_of(reward))
        if plot is not None:
            plotted(plot, reward)


if __name__ == "__main__":
    typer.run(main)
