"""Tables as Parquet, for pandas, polars and the like to read alone.

While a run writes, rows are appended to JSON lines, which a kill can tear only at the end; a
Parquet file is written whole, from those, when they are all there.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mi_lens.common.files import replacing


def write_table(rows: Iterable[dict[str, Any]], path: str | Path) -> None:
    """Writes a whole Parquet file, or leaves the old one.

    A mapping inside of a row becomes columns of its own: "thoughts.execution".

    Raises:
        ValueError: If there are no rows, so that the columns are unknown.
    """
    import pyarrow
    from pyarrow import parquet

    flat = [_flat(row) for row in rows]
    if not flat:
        raise ValueError(f"{path}: no rows to write; expected at least one")
    names = list(dict.fromkeys(name for row in flat for name in row))
    columns = {name: [row.get(name) for row in flat] for name in names}
    with replacing(path) as temporary:
        parquet.write_table(pyarrow.table(columns), temporary)


def read_table(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file, as `write_table` flattened them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a whole Parquet file.
    """
    import pyarrow
    from pyarrow import parquet

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a Parquet file")
    try:
        return parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: not a whole Parquet file: {error}") from None


def _flat(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
