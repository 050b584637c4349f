"""The heavy ranker: groups of candidates come in while it trains, a score per candidate goes out while it serves.

`model` and `trainee` are the torch side, which `trainer` runs on Ray Train; `forward` is the same in NumPy, for `stage`.
"""

__all__: list[str] = []
