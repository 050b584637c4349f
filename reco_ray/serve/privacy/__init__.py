"""Privacy at the gateway: the fence that a replica follows, and the calls that ask for an erasure and show its receipt.

Called by `serve.assembly`; the work itself is done by ``jobs/erase_user.py`` (room `privacy`).
"""

__all__: list[str] = []
