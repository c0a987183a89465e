"""Tests of the choice of attention kernels; the setting is PyTorch's own, also where no GPU is."""

import pytest
from torch.backends import cuda

from mi_lens.models.backends.kernels import no_cudnn_attention


@pytest.fixture(autouse=True)
def _as_it_was():
    was = cuda.cudnn_sdp_enabled()
    yield
    cuda.enable_cudnn_sdp(was)


@pytest.mark.parametrize("users_own", [True, False])
def test_cudnn_is_off_inside_and_as_the_user_has_it_afterwards(monkeypatch, users_own):
    monkeypatch.setattr(cuda, "is_built", lambda: True)
    cuda.enable_cudnn_sdp(users_own)
    with no_cudnn_attention():
        assert not cuda.cudnn_sdp_enabled()
        with no_cudnn_attention():
            assert not cuda.cudnn_sdp_enabled()
        assert not cuda.cudnn_sdp_enabled()
    assert cuda.cudnn_sdp_enabled() == users_own


def test_an_error_inside_leaves_the_users_setting(monkeypatch):
    monkeypatch.setattr(cuda, "is_built", lambda: True)
    cuda.enable_cudnn_sdp(True)
    with pytest.raises(KeyError), no_cudnn_attention():
        raise KeyError
    assert cuda.cudnn_sdp_enabled()


def test_nothing_changes_without_cuda(monkeypatch):
    monkeypatch.setattr(cuda, "is_built", lambda: False)
    cuda.enable_cudnn_sdp(True)
    with no_cudnn_attention():
        assert cuda.cudnn_sdp_enabled()
