"""Dead letters admitted again after a fix: those that pass go to the bus with their ids and leave, the others stay.

Events go first and letters are removed behind them: where it breaks off between the two, replaying once more brings the same
ids, which the sink knows. So it is where the bus removes no single records (Kafka): what was replayed stays until its days end.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import orjson

from reco_ray.errors import DataError
from reco_ray.events.bus import Outgoing, Reader, Record, partition_of
from reco_ray.events.contract import Admitted, Refused
from reco_ray.events.dead_letters import DeadLetter

__all__ = ["ReplayReport", "Wanted", "replay"]

_BATCH = 500

_REDACTED = "personal_data"
"""Letters of this reason are kept redacted: admitted, they would be events of a user called ``[email]``."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters: of ``reasons`` (empty: all), received within [since_us, until_us)."""

    reasons: frozenset[str] = frozenset()
    since_us: int = 0
    until_us: int = 2**63

    def __call__(self, letter: DeadLetter) -> bool:
        """Whether a letter is among them."""
        return (not self.reasons or letter.reason in self.reasons) and self.since_us <= letter.received_us < self.until_us


@dataclass(slots=True)
class ReplayReport:
    """Letters that were wanted, and what became of them.

    Attributes:
        replayed: now on the bus as events. removed: letters that left; fewer where the bus cannot remove them.
        erased: letters of erased users, that left without being replayed.
        staying: by the reason for which they stay.
    """

    replayed: int = 0
    removed: int = 0
    erased: int = 0
    staying: Counter[str] = field(default_factory=Counter)


async def replay(
    readers: Sequence[Reader],
    append: Callable[[Sequence[Outgoing]], Awaitable[None]],
    admit: Callable[[Sequence[object]], Sequence[Admitted | Refused]],
    wanted: Wanted,
    drops: Callable[[str, int, int], bool],
    partitions: int,
) -> ReplayReport:
    """Replay the wanted letters that are on the bus now.

    Args:
        readers: of the dead letters, one for each partition. append: to the topic of events, durably.
        drops: the fence: user digest, event time, time received -> whether it may not be kept.
    Raises: NotReadyError: the bus is away; what was replayed until then is on it.
    """
    report = ReplayReport()
    for reader in readers:
        last, after = reader.newest(), -1
        while after < last and (records := reader.read(after, _BATCH, 0.0)):
            after = records[-1].position
            events, gone = _sort([record for record in records if record.position <= last], admit, wanted, drops, report)
            if events:
                await append([Outgoing(partition_of(event.user_id, partitions), event.value) for event in events])
            report.replayed += len(events)
            report.removed += reader.remove(gone) if gone else 0
    return report


def _sort(
    records: Sequence[Record],
    admit: Callable[[Sequence[object]], Sequence[Admitted | Refused]],
    wanted: Wanted,
    drops: Callable[[str, int, int], bool],
    report: ReplayReport,
) -> tuple[list[Admitted], list[int]]:
    """Return the events that pass, and the positions of the letters that leave."""
    events: list[Admitted] = []
    gone: list[int] = []
    for record in records:
        try:
            letter = DeadLetter.decode(record.value)
        except DataError:
            report.staying["unreadable"] += 1
            continue
        if not wanted(letter):
            continue
        verdict = _admit_again(letter, admit)
        if letter.user and drops(letter.user, verdict.ts_us if isinstance(verdict, Admitted) else 0, letter.received_us):
            report.erased += 1
        elif isinstance(verdict, Admitted):
            events.append(verdict)
        else:
            report.staying[verdict] += 1
            continue
        gone.append(record.position)
    return events, gone


def _admit_again(letter: DeadLetter, admit: Callable[[Sequence[object]], Sequence[Admitted | Refused]]) -> Admitted | str:
    """Return the event, or the reason why it is none."""
    if letter.reason == _REDACTED:
        return _REDACTED
    try:
        raw = orjson.loads(letter.raw)
    except orjson.JSONDecodeError:
        return "malformed"
    (verdict,) = admit([raw])
    return verdict if isinstance(verdict, Admitted) else verdict.reason
