"""Names a model by its content, so that a result is never reused for another model."""

from hashlib import blake2b

import torch

SAMPLED_VALUES = 64  # Of each parameter: reading all of a 70B model would take minutes.


def model_fingerprint(model: torch.nn.Module) -> str:
    """16 hexadecimal digits from every parameter's name, shape, dtype and a sample of its values.

    The sample is spread evenly over the parameter, so training, editing or folding weights
    changes it; flipping a single value elsewhere does not.
    """
    digest = blake2b(digest_size=8)
    digest.update(type(model).__name__.encode())
    for name, parameter in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        count = parameter.numel()
        if count:
            where = torch.linspace(0, count - 1, min(SAMPLED_VALUES, count), dtype=torch.float64)
            index = where.round().long().to(parameter.device)
            # Flattened through unravel_index: a transposed layout must not be copied to be read.
            values = parameter[torch.unravel_index(index, parameter.shape)].detach()
            digest.update(values.cpu().double().contiguous().numpy().tobytes())
    return digest.hexdigest()
