"""The kinds of faults. Each makes its attempt and says how it went, or raises an AttemptError."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from safetensors.torch import load_file, save_file

from mi_lens.common.files import write_jsonl
from tests.soak.bench import PROBLEMS, SIGNALS, STATES, Attempt, AttemptError, save_vector
from tests.soak.commands import OUT, WRITERS, Running, readers
from tests.soak.hostile import draw
from tests.soak.oracle import difference, record_files, tables

Went = Literal["clear error", "carried through"]
KILLS = 5  # Of one attempt.
BAD_VALUES = 3  # Of one attempt, all in one folder.


def bad_value(attempt: Attempt) -> Went:
    """Hostile values are refused by name, and lock no folder."""
    name = attempt.dice.choice(list(WRITERS))
    attempt.begin(name, attempt.dice.choice(STATES))
    for _ in range(BAD_VALUES):
        reads = attempt.reads_checkpoint(name)
        bad = draw(name, attempt.dice)
        attempt.note(f"bad value: {bad.what}")
        ended = attempt.run(bad.apply(attempt.folder, attempt.command(name)))
        said = ended.stderr + ended.stdout
        expected = bad.of_checkpoint and not reads
        if ended.status == 0 and not expected:
            raise AttemptError("silent difference", f"{bad.what} is accepted: {ended}\n{said}")
        if ended.status != 0 and not any(text in said for text in bad.named):
            raise AttemptError("unclear error", f"names none of {bad.named}: {ended}\n{said}")
        attempt.restore_inputs()
    attempt.ends_as_undisturbed(name)
    return "clear error"


def kill(attempt: Attempt) -> Went:
    """A run that is killed several times loses nothing, and ends as an undisturbed one."""
    name = attempt.dice.choice(list(WRITERS))
    while attempt.kills < KILLS:
        seconds = attempt.dice.uniform(0, 0.9 * attempt.bench.seconds[name])
        with_signal = attempt.dice.choice(SIGNALS)
        if attempt.interrupted(attempt.command(name), seconds, with_signal):
            attempt.succeeds_check()
        else:  # it ended before
            attempt.ends_as_undisturbed(name)
            shutil.rmtree(attempt.out)
    attempt.ends_as_undisturbed(name)
    if left := list(attempt.out.rglob(".*.partial")):
        raise AttemptError("silent difference", f"a finished run leaves {left}")
    return "carried through"


def _change_json(path: Path, name: str, value: object) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | {name: value}), encoding="utf-8")


def _change_weight(folder: Path) -> None:
    weights = load_file(folder / "model" / "model.safetensors")
    name = sorted(weights)[len(weights) // 2]
    weights[name].view(-1)[0] += 0.5
    save_file(weights, folder / "model" / "model.safetensors", {"format": "pt"})


def _change_template(folder: Path) -> None:
    path = folder / "model" / "chat_template.jinja"
    path.write_text(path.read_text(encoding="utf-8") + "Hm", encoding="utf-8")


REPLACEMENTS: dict[str, Callable[[Path], object]] = {
    "another gold answer": lambda folder: write_jsonl(
        folder / "problems.jsonl", [*PROBLEMS[:2], PROBLEMS[2] | {"answer": "41"}]
    ),
    "other numbers in the vector": lambda folder: save_vector(
        folder / "vector.safetensors", [0.25] * 32
    ),
    "another weight": _change_weight,
    "another chat template": _change_template,
    "another rms_norm_eps": lambda folder: _change_json(
        folder / "model" / "config.json", "rms_norm_eps", 0.1
    ),
    "other ends of text": lambda folder: _change_json(
        folder / "model" / "generation_config.json", "eos_token_id", [1, 86]
    ),
}

OF_CHECKPOINT = list(REPLACEMENTS)[2:]


def replaced_input(attempt: Attempt) -> Went:
    """Replaced inputs are refused, or give what a fresh run with them gives."""
    name = attempt.dice.choice(list(WRITERS))
    attempt.begin(name, attempt.dice.choice(STATES[1:]))
    change = attempt.dice.choice(list(REPLACEMENTS))
    attempt.note(change)
    unread = change in OF_CHECKPOINT and not attempt.reads_checkpoint(name)
    REPLACEMENTS[change](attempt.folder)
    ended = attempt.run(attempt.command(name))
    if ended.status == 0 and not unread:
        attempt.succeeds(attempt.command(name, "fresh"))
        if apart := difference(tables(attempt.out), tables(attempt.folder / "fresh")):
            raise AttemptError("silent difference", f"{change}: a fresh run differs in {apart}")
    if ended.status != 0 and not any(text in ended.stderr for text in ("another", "changed")):
        raise AttemptError("unclear error", f"{change}: {ended}\n{ended.stderr[-2000:]}")
    attempt.restore_inputs()
    if ended.status != 0 or not difference(tables(attempt.out), attempt.bench.tables[name]):
        attempt.ends_as_undisturbed(name)
        return "clear error" if ended.status else "carried through"
    # It was killed before it had written anything, so the new inputs made the folder.
    again = attempt.run(attempt.command(name))
    if again.status == 0 and not (change in OF_CHECKPOINT and name == "sweep"):
        raise AttemptError("silent difference", f"{change}: both inputs are accepted")
    return "carried through"


def _flip_a_bit(attempt: Attempt, path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = attempt.dice.randrange(len(data) - 1)  # The last is a line end, which says nothing.
    data[place] ^= 1 << attempt.dice.randrange(8)
    attempt.note(f"a bit of byte {place}")
    path.write_bytes(data)


def _truncate(attempt: Attempt, path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: attempt.dice.randrange(1, len(data) - 1)])


def _edit_lines(attempt: Attempt, path: Path, edit: Callable[[list[bytes], int], object]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    edit(lines, attempt.dice.randrange(len(lines)))
    path.write_bytes(b"".join(lines))


def _copy_another(attempt: Attempt, path: Path) -> None:
    """Puts a file of the same name and another run there, or of the same kind if there is none."""
    others = [p for folder in attempt.bench.others.values() for p in record_files(folder)]
    same = [other for other in others if other.name == path.name]
    other = attempt.dice.choice(same or [other for other in others if other.suffix == path.suffix])
    attempt.note(f"{other.relative_to(attempt.bench.folder)} is copied over it")
    shutil.copy(other, path)


DAMAGES: dict[str, Callable[[Attempt, Path], object]] = {
    "bit": _flip_a_bit,
    "emptied": lambda attempt, path: path.write_bytes(b""),
    "truncated": _truncate,
    "line removed": lambda attempt, path: _edit_lines(attempt, path, lambda lines, i: lines.pop(i)),
    "line doubled": lambda attempt, path: _edit_lines(
        attempt, path, lambda lines, i: lines.append(lines[i])
    ),
    "lines swapped": lambda attempt, path: _edit_lines(
        attempt, path, lambda lines, i: lines.insert(0, lines.pop(i))
    ),
    "of another run": _copy_another,
}


def damage(attempt: Attempt) -> Went:
    """A damaged record is named by `check` and readers, and made again by its command."""
    name = attempt.dice.choice(list(WRITERS))
    state = attempt.dice.choice(STATES[1:])
    attempt.begin(name, state)
    files = [path for path in record_files(attempt.out) if path.stat().st_size > 2]
    if not files:  # killed before it had written anything
        attempt.ends_as_undisturbed(name)
        return "carried through"
    path = attempt.dice.choice(files)
    kinds = list(DAMAGES) if path.suffix == ".jsonl" else ["bit", "emptied", "truncated"]
    kind = attempt.dice.choice([*kinds, "of another run"])
    before = attempt.bench.read[name] if state == "finished" else attempt.read(name)
    good, content = path.read_bytes(), tables(attempt.out)
    hurt = str(path.relative_to(attempt.folder))
    attempt.note(f"{kind}: {hurt}")
    DAMAGES[kind](attempt, path)
    same = tables(attempt.out) == content
    # A last line without an end, in a file that may still grow, is one that is being written.
    growing = state == "killed" and path.suffix == ".jsonl"
    must_be_named = kind in ("bit", "emptied", "truncated", "line removed") and not growing
    checked = attempt.run(["check", OUT])
    if must_be_named and not same and (checked.status != 1 or hurt not in checked.stdout):
        raise AttemptError(
            "silent difference", f"check does not name {hurt}: {checked.stdout[-1500:]}"
        )
    # Lines that are lost from a file that may grow, or are there twice, are whole. So is a JSON
    # file of another run: that it is foreign is told where another record names its content.
    if kind == "bit" or not (
        growing or kind in ("lines swapped", "line doubled", "of another run")
    ):
        _read_again(attempt, name, hurt, before)
    if kind == "of another run" and state == "finished" and path.suffix != ".json":
        _read_again(attempt, name, OUT, before)
    ended = attempt.run(attempt.command(name))
    if ended.status != 0:
        if kind != "of another run":
            raise AttemptError("unclear error", f"{kind}, {hurt}: {ended}\n{ended.stderr[-2000:]}")
        path.write_bytes(good)
    attempt.ends_as_undisturbed(name)
    return "clear error" if checked.status else "carried through"


def _read_again(attempt: Attempt, name: str, hurt: str, before: list[str]) -> None:
    """Every reader names the damaged file, or says what it said before."""
    for command, old, new in zip(readers(name), before, attempt.read(name), strict=True):
        if new.startswith("!"):
            if hurt not in new:
                raise AttemptError(
                    "unclear error", f"{command} does not name {hurt}: {new[-1500:]}"
                )
        elif new != old:
            raise AttemptError("silent difference", f"{command} of {hurt} shows other content")


def two_at_once(attempt: Attempt) -> Went:
    """Of two processes on one folder each ends well, or is told of the other."""
    name = attempt.dice.choice(list(WRITERS))
    delay = attempt.dice.uniform(0, attempt.bench.seconds[name])
    first = Running(attempt.command(name), attempt.folder)
    first.process.join(delay)
    attempt.note(f"a second process after {delay:.3f} s:")
    second = Running(attempt.command(name), attempt.folder)
    both = [attempt.ended(running.end()) for running in (first, second)]
    refused = [ended for ended in both if ended.status != 0]
    for ended in refused:
        if "writes there now" not in ended.stderr:
            raise AttemptError("unclear error", f"{ended}\n{ended.stderr[-2000:]}")
    if not refused and (apart := difference(tables(attempt.out), attempt.bench.tables[name])):
        raise AttemptError("silent difference", f"both end well: {apart}")
    attempt.ends_as_undisturbed(name)
    return "clear error" if refused else "carried through"


def full_disk(attempt: Attempt) -> Went:
    """A file that can grow no further is named; with room again, the run ends."""
    name = attempt.dice.choice(list(WRITERS))
    largest = max(path.stat().st_size for path in record_files(attempt.bench.undisturbed(name)))
    limit = attempt.dice.randrange(largest)
    attempt.note(f"no file may exceed {limit} bytes:")
    ended = attempt.run(attempt.command(name), largest_file=limit)
    if ended.status == 2 and not ("File too large" in ended.stderr and f"{OUT}/" in ended.stderr):
        raise AttemptError("unclear error", f"{ended}\n{ended.stderr[-2000:]}")
    attempt.succeeds_check()
    attempt.ends_as_undisturbed(name)
    return "clear error" if ended.status else "carried through"


KINDS: dict[str, Callable[[Attempt], Went]] = {
    "bad value": bad_value,
    "kill": kill,
    "replaced input": replaced_input,
    "damaged file": damage,
    "two at once": two_at_once,
    "full disk": full_disk,
}
