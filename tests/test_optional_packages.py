"""Packages that are optional: without them, the entries that need them say what to install."""

import json
import sys

import pytest

from mi_lens.cli import main
from mi_lens.generation.engines.lookup import load_engine

WANTED = {
    "datasets": "pip install 'mi-lens[hub]'",
    "ray": "pip install 'mi-lens[ray]'",
    "vllm": "pip install vllm",
}


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("datasets", ["generate", "--problems", "math500"]),
        ("ray", ["sweep", "{spec}", "--executor", "ray"]),
    ],
)
def test_a_command_names_the_package_that_it_needs(
    package, command, checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, package, None)  # what Python does where it is missing
    spec = tmp_path / "spec.yaml"
    settings = {"models": [str(checkpoint("llama"))], "problems": "pocket", "limit": 2}
    spec.write_text(json.dumps({**settings, "conditions": ["baseline"]}))  # JSON is YAML
    command = [spec.as_posix() if word == "{spec}" else word for word in command]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert WANTED[package] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_vllm_is_named(monkeypatch, checkpoint):
    pytest.importorskip("mi_lens.generation.engines.vllm_engine")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match="pip install vllm"):
        load_engine(checkpoint("llama"))
