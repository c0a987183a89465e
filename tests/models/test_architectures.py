import subprocess
import sys

import pytest

from mi_lens.models.architectures import CONVERTERS, weight_converter
from mi_lens.models.backends.lookup import available


@pytest.mark.skipif("hooked" not in available(), reason="this TransformerLens has no converters")
@pytest.mark.parametrize("architecture", CONVERTERS)
def test_every_converter_is_there(architecture: str) -> None:
    assert callable(weight_converter(architecture))


def test_the_table_needs_no_transformer_lens() -> None:
    code = "import sys, mi_lens.models.checkpoint; print('transformer_lens' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
