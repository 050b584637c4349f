"""Exploration and off-policy evaluation, in a simulated world whose truth is known.

``python benchmarks/explore.py --out FILE [--plot FILE.svg]`` measures, with fixed seeds and without Ray:

- whether items come with the odds that are logged, and whether a logger that is wrong by a fifth of the rate is caught;
- what exploration earns and costs once new items come, against the same shop without it (`explore_reward`). In-process: the
  release's rerank stage, the catalogue and the driver are the product's, HTTP is left out, because the shop learns every few
  hundred visits, and publishing as many releases would take hours;
- what a bandit over sources earns against choosing among them alike, where the best one depends on the circumstances
  (`explore_bandit`);
- whether estimates from the logs of one policy hold the truth of others, and are refused where nothing was logged
  (`explore_estimates`).
"""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from explore_bandit import bandit_rewards
from explore_estimates import estimates
from explore_reward import one_world, rewards
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
    worlds: int = 32,
    visits: int = 3_000,
    repetitions: int = 200,
    draws: int = 1_500,
    bandits: int = 20,
    seed: int = 7,
) -> None:
    """Measure and write the result; a part whose size is 0 is left out. Worlds that ``out`` has already are not run again."""
    settings = {
        "slots": slots,
        "worlds": worlds,
        "visits": visits,
        "repetitions": repetitions,
        "draws": draws,
        "bandits": bandits,
        "seed": seed,
    }
    found: dict[str, Any] = {"checks": [], "settings": settings, "worlds": {}}
    if out.exists() and (before := json.loads(out.read_text())).get("settings", {}).get("visits") == visits:
        found["worlds"] = before.get("worlds", {})

    def save() -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".part").write_text(json.dumps(found, indent=1))
        out.with_suffix(".part").replace(out)

    def note(part: str, result: dict[str, Any], *checks: tuple[str, float, str]) -> None:
        """Write after each part: together they take half an hour."""
        found[part] = result
        found["checks"] += [{"name": name, "value": value, "unit": unit} for name, value, unit in checks]
        save()
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
    if not worlds:
        return
    for number in range(seed, seed + worlds):
        if str(number) not in found["worlds"]:
            found["worlds"][str(number)] = one_world(visits, number)
            save()
    reward = rewards([found["worlds"][str(number)] for number in range(seed, seed + worlds)])
    best = reward["kinds"][reward["judged"]]
    note(
        "reward",
        reward,
        ("explore_vs_greedy_reward", best["gain"], "ratio, thompson at 0.1 less greedy, in-process"),
        ("explore_vs_greedy_reward_low", best["low"], "ratio, lower end of 95%"),
    )
    if plot is not None:
        _draw(plot, reward)


def _draw(path: Path, reward: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    at = np.array(reward["curve_at"])
    axes.axhline(0, color="black", lw=0.8)
    for name, kind in reward["kinds"].items():
        gains = np.array(kind["curves"])
        mean, error = gains.mean(axis=0), gains.std(axis=0, ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0
        axes.plot(at, mean, label=name.replace("_", " "))
        axes.fill_between(at, mean - 1.96 * error, mean + 1.96 * error, alpha=0.2)
    axes.set(xlabel="visits since the first new item", ylabel="clicks to be expected,\nmore than without exploration")
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    typer.run(main)
