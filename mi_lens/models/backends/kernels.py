"""Which of PyTorch's attention kernels the package's own passes use on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.backends import cuda


@contextmanager
def no_cudnn_attention() -> Iterator[None]:
    """Inside, attention is not computed by cuDNN; afterwards the user's setting is as it was.

    cuDNN plans its work anew for every shape, and each step of decoding has a new one: the plans
    would take longer than the steps. It is PyTorch's first choice on Hopper from version 2.11 on.
    Nothing changes without CUDA.
    """
    if not (cuda.is_built() and cuda.cudnn_sdp_enabled()):
        yield
        return
    cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        cuda.enable_cudnn_sdp(True)
