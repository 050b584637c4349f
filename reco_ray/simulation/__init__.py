"""Simulation: a world of users with known tastes comes in, traffic over the real HTTP API and its true worth go out.

`world` knows what anybody likes, `arrivals` when somebody comes, `http` speaks to a gateway, `driver` brings them together.
Called by benchmarks, demos, canary tests and game days; everything but `http` is pure NumPy.
"""

from reco_ray.simulation.arrivals import Pattern, arrival_times
from reco_ray.simulation.driver import Api, Shown, drive
from reco_ray.simulation.http import HttpApi
from reco_ray.simulation.ledger import Ledger, Totals
from reco_ray.simulation.world import Truth, World, WorldConfig, WorldItem

__all__ = [
    "Api",
    "HttpApi",
    "Ledger",
    "Pattern",
    "Shown",
    "Totals",
    "Truth",
    "World",
    "WorldConfig",
    "WorldItem",
    "arrival_times",
    "drive",
]
