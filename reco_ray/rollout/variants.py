"""Variants: by which way a user came to the release that answered. They stand in answers, records of decisions and metrics."""

__all__ = ["APART", "CANARY", "HOLDOUT", "MAIN", "OVERRIDE"]

MAIN, CANARY = "main", "canary"
"""The release with most traffic; any other one. The hash of the user decides."""

HOLDOUT, OVERRIDE = "holdout", "override"
"""A user who is in no rollout; a test user who was sent somewhere by name."""

APART = frozenset((HOLDOUT, OVERRIDE))
"""What no rollout is judged by."""
