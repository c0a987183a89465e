"""The lock that tells whether a process still writes to a folder."""

import os
import signal
import subprocess
import sys

from mi_lens.common import writing as module
from mi_lens.common.writing import is_written, writing


def test_a_file_is_written_while_a_block_lasts(tmp_path):
    record = tmp_path / "run.json"
    record.write_text("{}")
    assert is_written(record) is False
    with writing(record), writing(record):
        assert is_written(record) is True
    assert is_written(record) is False


def test_a_killed_process_writes_no_longer(tmp_path):
    record = tmp_path / "run.json"
    record.write_text("{}")
    code = (
        "import sys, time; from pathlib import Path; from mi_lens.common.writing import writing\n"
        "with writing(Path(sys.argv[1])): print('holds it', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, record], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds it\n"
        assert is_written(record) is True
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert is_written(record) is False


def test_what_cannot_be_known_is_not_guessed(tmp_path, monkeypatch):
    record = tmp_path / "run.json"
    record.write_text("{}")
    monkeypatch.setattr(module, "fcntl", None)
    with writing(record):
        assert is_written(record) is None
