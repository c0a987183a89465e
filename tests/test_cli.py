"""The command line's own part: what is stopped while it reads its arguments."""

import os
import signal
import time

import pytest

from mi_lens import cli


def test_a_stop_while_arguments_are_read_is_told_like_any_other(monkeypatch, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.tyro.extras, "subcommand_cli_from_dict", stopped)
    with pytest.raises(SystemExit) as ended:
        cli.main(["status", "run"])
    assert ended.value.code == 130
    assert "mi-lens: stopped" in capsys.readouterr().err


def test_ctrl_c_that_a_library_turns_into_its_own_error_is_told_as_ctrl_c(monkeypatch, capsys):
    def library(_):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt as interrupt:
            raise LookupError("Error building a validator") from interrupt

    monkeypatch.setattr(cli, "run", library)
    # A process that a script started in the background ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(SystemExit) as ended:
        cli.main(["status", "x"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "mi-lens: stopped; the same command continues from here\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
