"""The embedding models in torch, and the examples that they are fitted to; `recall.trainer` runs them on Ray Train."""

__all__: list[str] = []
