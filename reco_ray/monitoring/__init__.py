"""Metric definitions, in one place and with one naming: ``reco_<room>_<what>_<unit>``.

Replicas, actors and jobs make them when they start and count with them; Prometheus reads them. Labels are bounded.
"""

__all__: list[str] = []
