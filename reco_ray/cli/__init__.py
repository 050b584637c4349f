"""The command line: `reco`, thin commands over the rooms.

Arguments come in from a person at a terminal, tables and one line for each error go out. Nothing imports it.
"""

from reco_ray.cli.main import app, main

__all__ = ["app", "main"]
