"""The way of a request: release and user, the stages in coalesced batches under a deadline, and the ladder below them.

Checked bodies come in from `serve.http`, finished slates go out. It knows stages as functions, not as deployments.
"""

__all__: list[str] = []
