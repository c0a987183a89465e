"""Tensors with a record of what they are: what is altered is noticed."""

import pytest
import torch
from safetensors.torch import save_file

from mi_lens.common.records import DamagedError
from mi_lens.common.tensor_file import read_about, read_tensors, write_tensors

TENSORS = {
    "weight": torch.arange(6.0).reshape(2, 3),
    "steps": torch.tensor(7.0),
    "half": torch.ones(3, dtype=torch.bfloat16),
}
ABOUT = {"kind": "example", "names": ["a", "ü"], "share": 0.5}


def test_tensors_and_record_come_back(tmp_path):
    write_tensors(tmp_path / "file", {**TENSORS, "weight": TENSORS["weight"].T.T}, ABOUT)
    tensors, about = read_tensors(tmp_path / "file")
    assert about == ABOUT == read_about(tmp_path / "file")
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == TENSORS[name].dtype
        assert torch.equal(tensor, TENSORS[name])


def test_an_altered_number_is_noticed(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, TENSORS, ABOUT)
    text = bytearray(path.read_bytes())
    text[-1] ^= 1
    path.write_bytes(text)
    with pytest.raises(DamagedError, match="its numbers were altered"):
        read_tensors(path)


def test_an_altered_record_is_noticed(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, TENSORS, ABOUT)
    path.write_bytes(path.read_bytes().replace(b"example", b"exempla"))
    with pytest.raises(DamagedError, match="altered since it was written"):
        read_tensors(path)


def test_a_cut_file_and_a_foreign_one_are_refused(tmp_path):
    path = tmp_path / "file"
    write_tensors(path, TENSORS, ABOUT)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DamagedError, match="not a whole safetensors file"):
        read_tensors(path)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(DamagedError, match="mi-lens did not write it"):
        read_about(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_tensors(tmp_path / "nowhere")
