"""Who comes and what they like in the benchmark of rollouts: people agree on most things, and know well what is good.

About every second visit has a click, so that a change of the clicks shows in minutes and not in days.
"""

from reco_ray.simulation import World, WorldConfig

__all__ = ["K", "make_world"]

K = 3


def make_world(seed: int = 7) -> World:
    """5,000 users and 400 items; nobody tires, no taste turns."""
    config = WorldConfig(
        users=5_000, items=400, categories=10, base=-3.0, sharpness=0.5, quality=1.4, position_bias=0.5, seed=seed
    )
    return World(config)
