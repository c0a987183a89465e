"""Each architecture on each backend, in float64, and Hugging Face's model to compare with."""

from typing import Any

import pytest

from mi_lens.models.backends.lookup import NAMES, available, get_backend
from tests.conftest import ARCHITECTURES, BRIDGED


@pytest.fixture(scope="module", params=NAMES)
def backend(request: pytest.FixtureRequest) -> Any:
    """Each backend that is installed."""
    if request.param not in available():
        pytest.skip(f"this TransformerLens has no backend {request.param!r}")
    return get_backend(request.param)


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES | BRIDGED))
def any_architecture(request: pytest.FixtureRequest, backend: Any) -> str:
    """Each architecture that the backend loads."""
    if backend.name == "hooked" and request.param in BRIDGED:
        pytest.skip("only the bridge loads it")
    return request.param


@pytest.fixture(scope="module")
def source(any_architecture: str, checkpoint: Any, reference: Any) -> Any:
    """Hugging Face's own model."""
    return reference(checkpoint(any_architecture))


@pytest.fixture(scope="module")
def model(
    backend: Any, any_architecture: str, checkpoint: Any, reference: Any, float64_throughout: Any
) -> Any:
    """The backend's model with the weights of `source`."""
    hf_model = reference(checkpoint(any_architecture))
    with float64_throughout():
        return backend.build(hf_model, None)


@pytest.fixture
def exactly(float64_throughout: Any) -> Any:
    """The test computes in float64 what is in float32 by name otherwise."""
    with float64_throughout():
        yield
