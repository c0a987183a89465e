"""Records: JSON objects with a checksum, so that a change of a file is noticed when it is read.

A record is one line of a JSON-lines file, or a whole JSON file. Its last field is the CRC-32 of the
text before that field. A CRC-32 notices every flipped bit, and of other changes all but one in four
billion. It does not protect against somebody who wants to deceive.

A command that continues a folder moves what was altered or torn into a file whose name ends in
".damaged", warns of it, and makes it again. Reading alone changes nothing: it raises an error.
"""

import json
import os
import re
import warnings
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from mi_lens.common.files import naming_full_disk, replacing, write_text

DAMAGED = ".damaged"
AGAIN = "run the command that wrote it again: it makes anew what is damaged"
CHECKSUM = re.compile(rb',?\s*"checksum": "([0-9a-f]{8})"\s*}\s*\Z')


class DamagedError(ValueError):
    """A record was altered or cut since it was written, or a file lacks records."""


def sealed(record: dict[str, Any], indent: int | None = None) -> str:
    """A record as JSON text with its checksum, without a last line end."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, indent=indent)
    body = text[:-1].rstrip()
    comma, space = "," if record else "", " " if indent is None else "\n" + " " * indent
    end = "}" if indent is None else "\n}"
    return f'{body}{comma}{space}"checksum": "{crc32(body.encode()):08x}"{end}'


def verified(text: bytes, where: str, *, required: bool = True) -> dict[str, Any]:
    """The record in a text, once its checksum is verified and removed.

    Args:
        text: The text.
        where: Path, and line if there are several, for the message.
        required: Whether a record without a checksum is an error.

    Raises:
        DamagedError: If the text is not a JSON object, or its checksum does not fit.
    """
    seal = CHECKSUM.search(text, max(0, len(text) - 100))
    if seal is None and required:
        raise DamagedError(
            f"{where}: no checksum; it was altered since mi-lens wrote it, or an older mi-lens "
            f"wrote it; {AGAIN}"
        )
    if seal is not None and crc32(text[: seal.start()]) != int(seal[1], 16):
        raise DamagedError(f"{where}: altered since it was written (its checksum differs); {AGAIN}")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{where}: not JSON ({error}): {text[:60]!r}") from None
    if not isinstance(record, dict):
        raise DamagedError(f"{where}: a {type(record).__name__}, expected a JSON object")
    if seal is not None:
        del record["checksum"]
    return record


def write_record(path: str | Path, record: dict[str, Any]) -> None:
    """Writes one record as a JSON file; None stands for an undefined number (JSON has no NaN)."""
    write_text(path, sealed(record, indent=2) + "\n")


def read_record(folder: str | Path, name: str = "run.json") -> dict[str, Any]:
    """Reads the record of what produced a folder: its run.json, or the file called `name`.

    Raises:
        FileNotFoundError: If the folder does not exist or holds no such record.
        DamagedError: If the record was altered.
    """
    path = Path(folder) / name
    if not path.is_file():
        missing = "holds no run of mi-lens" if Path(folder).is_dir() else "no such folder"
        raise FileNotFoundError(
            f"{folder}: {missing} (no {name}); give the --out of a mi-lens command"
        )
    return verified(path.read_bytes(), str(path))


def write_records(path: str | Path, records: Iterable[dict[str, Any]]) -> None:
    """Writes a JSON-lines file of records completely; if that fails, the old file stays."""
    write_text(path, "".join(f"{sealed(record)}\n" for record in records))


def append_record(path: str | Path, record: dict[str, Any]) -> None:
    """Appends one record as a line and returns once it is on disk.

    Raises:
        OSError: If the disk is full; the file then ends with the record before this one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rest = memoryview(f"{sealed(record)}\n".encode())
    with naming_full_disk(path), path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except BaseException:  # interrupts too: a partial line would corrupt the next line
            file.truncate(before)
            raise


def _whole_lines(path: Path) -> list[tuple[int, bytes]]:
    """The lines that end, each with its number. A file that does not exist yet has none."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file, without a last line that is still being written.

    The file on disk does not change. A file that does not exist yet has no records.

    Raises:
        DamagedError: If a line was altered; the message names the first.
    """
    path = Path(path)
    return [verified(line, f"{path}, line {number}") for number, line in _whole_lines(path)]


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file that mi-lens or somebody else wrote.

    A line that has a checksum is verified. Blank lines are skipped.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedError: If a line is not a JSON object or was altered; the message names the first.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a JSON-lines file")
    return [
        verified(line, f"{path}, line {number}", required=False)
        for number, line in enumerate(path.read_bytes().split(b"\n"), start=1)
        if line.strip()
    ]


def damaged_lines(path: str | Path) -> list[str]:
    """What is wrong with each altered line of a JSON-lines file of records."""
    wrong = []
    for number, line in _whole_lines(Path(path)):
        try:
            verified(line, f"{path}, line {number}")
        except DamagedError as error:
            wrong.append(str(error))
    return wrong


def count_records(path: str | Path) -> int:
    """The number of lines that `read_records` reads; their content is not verified."""
    return len(_whole_lines(Path(path)))


def continue_records(path: str | Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file that is to be continued.

    A partial line that a killed `append_record` left after the last line end is removed, and so is
    a line that repeats an earlier one. Altered lines are moved to the file's ".damaged" file, with
    a warning that names each.
    """
    path = Path(path)
    if not path.exists():
        return []
    records, kept, aside, wrong = [], [], [], []
    numbers: dict[bytes, int] = {}
    for number, line in _whole_lines(path):
        if numbers.setdefault(line, number) != number:
            continue
        try:
            records.append(verified(line, f"{path}, line {number}"))
            kept.append(line + b"\n")
        except DamagedError as error:
            aside.append(line + b"\n")
            wrong.append(str(error))
    _append_aside(path, aside)
    if path.stat().st_size != sum(map(len, kept)):
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(kept))
    for message in wrong:
        warnings.warn(f"{message}. The line is set aside in {path.name}{DAMAGED}", stacklevel=2)
    return records


def _append_aside(path: Path, lines: Sequence[bytes]) -> None:
    if lines:
        with path.with_name(path.name + DAMAGED).open("ab") as file:
            file.write(b"".join(lines))


def set_aside_foreign(path: Path, key: str, wanted: Collection[str]) -> None:
    """Sets aside, with a warning, the records of traces that a run does not have.

    They are there if a file of another run was put in the place of the run's own.

    Args:
        path: The file.
        key: The field that holds a trace's id.
        wanted: The ids of the run's traces.
    """
    records = continue_records(path)
    foreign = [record for record in records if record[key] not in wanted]
    if foreign:
        _append_aside(path, [f"{sealed(record)}\n".encode() for record in foreign])
        write_records(path, (record for record in records if record[key] in wanted))
        warnings.warn(
            f"{path}: {len(foreign)} records are of another run (the first of trace "
            f"{foreign[0][key]}). They are set aside in {path.name}{DAMAGED}",
            stacklevel=2,
        )


def set_aside_damaged(folder: str | Path) -> None:
    """Sets aside the altered records among a folder's own JSON files."""
    for path in sorted(Path(folder).glob("*.json")):
        try:
            verified(path.read_bytes(), str(path))
        except DamagedError as error:
            set_aside(path, str(error))


def set_aside(path: Path, why: str) -> None:
    """Renames a damaged file to a free name that ends in ".damaged", with a warning."""
    aside, number = path.with_name(path.name + DAMAGED), 2
    while aside.exists():
        aside, number = path.with_name(f"{path.name}.{number}{DAMAGED}"), number + 1
    path.rename(aside)
    warnings.warn(f"{why}. The file is set aside as {aside.name}", stacklevel=2)


def file_checksum(path: Path) -> str:
    """The CRC-32 of a file that holds no checksum itself, as 8 hexadecimal digits."""
    return f"{crc32(path.read_bytes()):08x}"


def require_checksum(path: Path, checksum: str) -> None:
    """Raises a DamagedError unless a file is there and has this checksum."""
    if not path.is_file():
        raise DamagedError(f"{path}: missing from a finished run; {AGAIN}")
    if file_checksum(path) != checksum:
        raise DamagedError(f"{path}: altered since it was written (its checksum differs); {AGAIN}")


def require_records(path: Path, key: str, wanted: Collection[str]) -> None:
    """Raises a DamagedError if a JSON-lines file was altered, or lacks traces of a finished run.

    Args:
        path: The file.
        key: The field that holds a trace's id.
        wanted: The ids of the run's traces.
    """
    require_all(path, {record[key] for record in read_records(path)}, wanted)


def require_count(path: Path, wanted: int) -> None:
    """Raises a DamagedError if a file of a finished run has too few lines; reads none of them."""
    found = count_records(path)
    if found < wanted:
        raise DamagedError(f"{path}: holds {found} of {wanted} records of a finished run; {AGAIN}")


def require_all(path: Path, found: Collection[str], wanted: Collection[str]) -> None:
    """Raises a DamagedError if a file, which holds the traces `found`, lacks some of `wanted`."""
    if lacking := [id_ for id_ in wanted if id_ not in found]:
        raise DamagedError(
            f"{path}: lacks {len(lacking)} of {len(wanted)} traces of a finished run (the first "
            f"is {lacking[0]}); {AGAIN}"
        )
