"""From the bus onwards: one detached actor for each partition, which stores its records and keeps the online features.

`actor` starts them; in each the `follower` runs the sinks (`events.sink`), feature streams (`features`) and what bandits learn
from (`bandit`); `flow` fills the online store anew from the lake.
"""

__all__: list[str] = []
