"""Slates kept: the replica's cache and its key, what is shared through the online store, and how purges reach them.

Finished slates come in from `serve.path` and go out again; called there and by `serve.assembly`.
"""

__all__: list[str] = []
