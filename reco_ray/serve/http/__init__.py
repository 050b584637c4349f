"""HTTP at the edge: the table of calls, what bodies and answers hold, problems, and the ASGI application that dispatches.

Requests come in as bytes and leave as checked bodies; `path` answers them. Called by `serve.assembly`.
"""

__all__: list[str] = []
