"""Metrics by the process that counts: the replicas of a deployment, the actors behind the bus."""

__all__: list[str] = []
