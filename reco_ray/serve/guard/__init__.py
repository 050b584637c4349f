"""What stands in front of the work: API keys and their limits, shedding by queue delay, breakers.

Pure but for the gate, which follows the keys in the online store. Called by `serve.http` and `serve.path`.
"""

__all__: list[str] = []
