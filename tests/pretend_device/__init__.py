"""Accelerators that are none: tensors on the CPU that say they are on `cuda:0` or `cuda:1`.

    from tests.pretend_device import pretend_devices

    with pretend_devices() as devices:
        model = mi_lens.load("pocket-reasoner", device="cuda:0")
        with devices.counted() as counts:
            mi_lens.generate(model, ["What is 3 + 4?"], max_new_tokens=8)
    print(counts)

Inside, an operation with tensors of two devices is refused, as CUDA refuses it, and what costs time
on a GPU however fast it is counts: launches of kernels, uploads, downloads, and all points where
the host waits for the device. Counts are the same on every machine. Results are the CPU's.

- `tensor.py`: the tensor.
- `modes.py`: what makes PyTorch take it for one of a GPU.
- `devices.py`: how an operation runs, and is counted.
- `rules.py`: what an operation does on a GPU: refuse, launch, copy, wait.
- `attention.py`: which attention kernel PyTorch would take.
- `counts.py`: what was counted, and where.

Not covered: seconds, memory, streams, gradients, the rounding of a GPU's kernels. An operation that
is one call of PyTorch's library counts as one launch, though sorting and the like launch several
kernels. A model must be loaded inside, and its tensors are of no use outside. It needs a PyTorch
without CUDA.
"""

from tests.pretend_device.counts import Counts
from tests.pretend_device.devices import Devices
from tests.pretend_device.modes import pretend_devices

__all__ = ["Counts", "Devices", "pretend_devices"]
