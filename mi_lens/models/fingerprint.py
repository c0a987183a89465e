"""A hash of a model's weights, so that a result is never reused for another model."""

from hashlib import blake2b

import torch

from mi_lens.models.model import Model

SAMPLED_VALUES = 64  # per parameter; reading every value of a 70B model would take minutes


def model_fingerprint(model: Model) -> str:
    """A hash of every parameter's name, shape, dtype and some of its values.

    The values are spread evenly over the parameter. Training, editing or folding weights changes
    the hash; a change of single values outside the sample does not.

    Returns:
        16 hexadecimal digits.
    """
    digest = blake2b(digest_size=8)
    digest.update(type(model).__name__.encode())
    for name, parameter in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        count = parameter.numel()
        if count:
            spread = torch.linspace(0, count - 1, min(SAMPLED_VALUES, count), dtype=torch.float64)
            index = spread.round().long().to(parameter.device)
            # unravel_index, because flattening a transposed parameter would copy all of it.
            values = parameter[torch.unravel_index(index, parameter.shape)].detach()
            digest.update(values.cpu().double().contiguous().numpy().tobytes())
    return digest.hexdigest()
