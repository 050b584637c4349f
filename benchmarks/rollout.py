"""The statistics of rollouts, without a cluster: `python benchmarks/rollout.py --out FILE`.

Experiments without a difference, looked at a hundred times each, for several shares and with users whose rates vary: how many
are stopped; with a difference, at the size that the planner names: how many are found.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from reco_ray.rollout import sample_size
from reco_ray.rollout.simulation import peek

_RATE, _EFFECT = 0.1, -0.2
_NULLS = ((0.5, 0.0), (0.05, 0.0), (0.05, 1.0), (0.01, 0.5))  # share of the candidate, spread of the users' rates
_SHARES = (0.5, 0.05)


def main() -> None:
    """Measure, print, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--experiments", type=int, default=1_000)
    parser.add_argument("--decisions", type=int, default=20_000)
    args = parser.parse_args()
    started = time.monotonic()
    nulls: list[dict[str, Any]] = []
    for seed, (share, spread) in enumerate(_NULLS):
        found = peek(args.experiments, args.decisions, rate=_RATE, share=share, spread=spread, seed=seed)
        nulls.append({"share": share, "spread": spread, "worse": found.worse, "better": found.better, "rate": found.rate})
        print(f"no difference, share {share:.0%}, spread {spread}: {found.rate:.2%} stopped")
    powers: list[dict[str, Any]] = []
    for seed, share in enumerate(_SHARES, len(_NULLS)):
        size = sample_size(_RATE, _EFFECT, share)
        found = peek(args.experiments // 5, size, rate=_RATE, effect=_EFFECT, share=share, seed=seed)
        power = found.worse / found.n
        powers.append({"share": share, "planned": size, "power": power, "wrong_side": found.better, "used": found.decisions})
        print(
            f"{_EFFECT:+.0%} clicks, share {share:.0%}: {power:.1%} found, on the average after {found.decisions:.0f} of {size}"
        )
    checks = [
        {"name": "false_positive_rate", "value": max(each["rate"] for each in nulls), "unit": "share"},
        {"name": "power", "value": min(each["power"] for each in powers), "unit": "share"},
    ]
    content = {"checks": checks, "experiments": args.experiments, "nulls": nulls, "powers": powers}
    args.out.write_text(json.dumps({**content, "seconds": time.monotonic() - started}, indent=1))
    print(json.dumps(checks))


if __name__ == "__main__":
    main()
