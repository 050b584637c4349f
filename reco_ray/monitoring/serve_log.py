"""The package's log in a Serve replica."""

import logging
import tempfile
from pathlib import Path

__all__ = ["share_serve_log"]


def share_serve_log() -> Path:
    """Send this package's log to the replica's own file; returns the folder it lies in.

    Past Serve's buffer, which throughput mode fills with 1,000 lines before it writes one.
    """
    package = logging.getLogger("reco_ray")
    handlers = [getattr(handler, "target", None) or handler for handler in logging.getLogger("ray.serve").handlers]
    if not package.handlers:
        package.setLevel(logging.INFO)
        package.propagate = False
        for handler in handlers:
            package.addHandler(handler)
    files = [Path(handler.baseFilename) for handler in handlers if isinstance(handler, logging.FileHandler)]
    return files[0].parent if files else Path(tempfile.gettempdir())
