"""Opening a table that writers append to: made with its properties by the first, checked and widened by all.

A table of events or exposures is written by several processes for years. What they must agree on stands in the table itself:
the unit of its dates, and how long its log is kept.
"""

import logging

import pyarrow as pa
from deltalake import DeltaTable, Schema, write_deltalake
from deltalake.exceptions import DeltaError

from reco_ray.config import DateUnit
from reco_ray.errors import DataError
from reco_ray.lake import tables
from reco_ray.schema import DEAD_LETTERS, EVENTS, EXPOSURES

__all__ = ["SCHEMAS", "open_table", "unit_of"]

log = logging.getLogger(__name__)

SCHEMAS = {"events": EVENTS, "exposures": EXPOSURES, "dead_letters": DEAD_LETTERS}

_UNIT = "reco.date_unit"
# A commit a second makes 3,600 files of log an hour, and compaction as many tombstones: both are read whenever a table is
# opened. Nothing here travels in time further back than a query runs.
_PROPERTIES = {
    "delta.checkpointInterval": "100",
    "delta.logRetentionDuration": "interval 1 hours",
    "delta.deletedFileRetentionDuration": "interval 1 hours",
}


def open_table(root: str, name: str, unit: DateUnit | None = None) -> DeltaTable:
    """Open a table for writing; make it if there is none, and give it columns that it lacks.

    Args:
        unit: of the table's dates; none asks no question of a table that is there.
    Raises: DataError: the table's dates have another unit, or a column has another type.
    """
    uri, schema = tables.table_uri(root, name), SCHEMAS[name]
    if not DeltaTable.is_deltatable(uri):
        _create(uri, name, schema, unit)
    table = DeltaTable(uri)
    _agree(table, f"table {name!r} under {root}", unit)
    if _lacks(pa.schema(table.schema().to_arrow()), schema):
        try:
            write_deltalake(table, schema.empty_table(), mode="append", schema_mode="merge")
        except DeltaError as exc:
            raise DataError(f"table {name!r} under {root}: found columns that do not take ours: {exc}; use a new root") from exc
        log.info("table %s under %s: new columns", name, root)
        table = DeltaTable(uri)
    return table


def unit_of(table: DeltaTable) -> DateUnit | None:
    """The unit of a table's dates, where that was written down."""
    found = table.metadata().configuration.get(_UNIT)
    return None if found is None else DateUnit(found)


def _create(uri: str, name: str, schema: pa.Schema, unit: DateUnit | None) -> None:
    properties = {**tables.statistics_property(name), **_PROPERTIES, **({_UNIT: unit.value} if unit else {})}
    try:
        DeltaTable.create(
            uri,
            Schema.from_arrow(schema),
            mode="ignore",
            partition_by=["date"],
            configuration=properties,
            raise_if_key_not_exists=False,  # ours begins with no "delta."
        )
    except DeltaError:
        if not DeltaTable.is_deltatable(uri):  # else another writer was first
            raise


def _agree(table: DeltaTable, where: str, unit: DateUnit | None) -> None:
    """Compare the unit that stands in the table, and write down what is missing there."""
    found = table.metadata().configuration
    known = found.get(_UNIT)
    if known is None and unit is not None and table.file_uris():
        known = DateUnit.month.value  # what was written before units were recorded
    if known is not None and unit is not None and known != unit.value:
        raise DataError(
            f"{where}: found dates by {known}, expected by {unit.value}; give lake.date_unit={known}, or import into a new root"
        )
    wanted = {**_PROPERTIES, **({_UNIT: unit.value} if unit else {})}
    if missing := {name: value for name, value in wanted.items() if found.get(name) != value}:
        table.alter.set_table_properties(missing, raise_if_not_exists=False)
        table.update_incremental()


def _lacks(found: pa.Schema, wanted: pa.Schema) -> bool:
    """Whether a column, or a field of a struct, is missing."""
    for field in wanted:
        if field.name not in found.names:
            return True
        if pa.types.is_struct(field.type):
            have = found.field(field.name).type
            if {each.name for each in field.type} - {each.name for each in have}:
                return True
    return False
