"""One process and one thread at a time write to a folder; the dead hold no lock."""

import os
import threading
import time

import pytest

from mi_lens.common.files import write_jsonl
from mi_lens.common.writing import LOCK, only_writer
from mi_lens.runs.config import GenerateConfig
from mi_lens.runs.generate import run_generate
from tests.processes import result_of, start


def hold(folder):
    """Writes to a folder until it is killed."""
    with only_writer(folder):
        (folder / "holds").touch()
        time.sleep(120)


def attempt(folder):
    """What comes of writing to a folder."""
    try:
        with only_writer(folder):
            return "wrote"
    except FileExistsError as error:
        return str(error)


def test_a_second_process_is_refused_by_name_until_the_first_is_dead(tmp_path):
    holder = start(hold, tmp_path)
    while not (tmp_path / "holds").exists():
        time.sleep(0.02)
    message = attempt(tmp_path)
    assert f"process {holder.pid} on " in message
    assert "writes there now; wait until it has ended" in message
    holder.kill()
    holder.join()
    assert attempt(tmp_path) == "wrote"
    assert (tmp_path / LOCK).read_text() == ""


def test_blocks_of_one_thread_lie_within_each_other_and_another_thread_is_refused(tmp_path):
    came_of: list[str] = []
    with only_writer(tmp_path), only_writer(tmp_path):
        other = threading.Thread(target=lambda: came_of.append(attempt(tmp_path)))
        other.start()
        other.join()
    assert f"process {os.getpid()} on " in came_of[0]
    assert attempt(tmp_path) == "wrote"
    assert result_of(attempt, tmp_path) == "wrote"


def test_an_error_frees_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), only_writer(tmp_path):
        _ = 1 / 0
    assert result_of(attempt, tmp_path) == "wrote"


def test_two_commands_on_one_folder(checkpoint, tmp_path):
    problems = tmp_path / "problems.jsonl"
    rows = [{"id": f"p{i}", "question": f"{i} + 1?", "answer": str(i + 1)} for i in range(3)]
    write_jsonl(problems, rows)
    config = GenerateConfig(
        out=tmp_path / "run",
        model=str(checkpoint("llama")),
        problems=str(problems),
        max_new_tokens=4,
        device="cpu",
    )
    traces = run_generate(config)
    holder = start(hold, config.out)
    while not (config.out / "holds").exists():
        time.sleep(0.02)
    try:
        with pytest.raises(FileExistsError, match=rf"process {holder.pid} on .* writes there now"):
            run_generate(config)
    finally:
        holder.kill()
        holder.join()
    assert [trace.id for trace in run_generate(config)] == [trace.id for trace in traces]
    assert len((config.out / "traces.jsonl").read_text().splitlines()) == 3
