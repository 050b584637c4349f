"""reco_ray: a recommendation platform on one Ray cluster.

Raw events come in, slates of items go out over HTTP; the rooms are the way between. Importing it starts nothing.
"""

__all__ = ["__version__"]

__version__ = "0.2.0"
