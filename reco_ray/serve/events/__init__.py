"""Events at the gateway: batches of raw events come in, records on the bus and a result for each event go out.

Pure of HTTP; called by `serve.http` and put together by `serve.assembly`.
"""

__all__: list[str] = []
