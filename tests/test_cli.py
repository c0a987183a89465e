"""The command line's own part: what is stopped while it reads its arguments."""

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
