"""Tables as Parquet files, which pandas, polars and other tools can read without this package.

A run appends its rows to a JSON-lines file, because a kill can damage only the last line of it.
When all rows are there, the Parquet file is written from them in one go.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mi_lens.common.files import replacing


def write_table(rows: Iterable[dict[str, Any]], path: str | Path) -> None:
    """Writes a Parquet file completely; if that fails, the old file stays.

    A mapping inside a row becomes one column per key, such as "thoughts.execution".

    Raises:
        ValueError: If there are no rows, because the columns are then unknown.
    """
    import pyarrow
    from pyarrow import parquet

    flat = [_flat(row) for row in rows]
    if not flat:
        raise ValueError(f"{path}: no rows to write; expected at least one")
    names = list(dict.fromkeys(name for row in flat for name in row))
    columns = {name: [row.get(name) for row in flat] for name in names}
    with replacing(path) as temporary:
        parquet.write_table(pyarrow.table(columns), temporary, write_page_checksum=True)


def read_table(path: str | Path) -> list[dict[str, Any]]:
    """Reads the rows of a Parquet file, in the flat form that `write_table` gives them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a complete Parquet file, or a page of it was altered.
    """
    from pyarrow import parquet

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a Parquet file")
    try:
        return parquet.read_table(path, page_checksum_verification=True).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        raise ValueError(f"{path}: not a whole Parquet file: {error}") from None


def _flat(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            columns |= _flat(value, f"{prefix}{key}.")
        else:
            columns[prefix + key] = value
    return columns
