"""The sources of candidates as a replica runs them: each finds items for a batch of queries (`query.Source`)."""

__all__: list[str] = []
