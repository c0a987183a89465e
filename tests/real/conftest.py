"""SmolLM2-135M-Instruct by three ways: ours, Hugging Face's, and TransformerLens's own classes."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_lens.models.backends.lookup import NAMES, available
from mi_lens.models.loading import load, load_tokenizer
from mi_lens.models.smollm2 import smollm2_file


@pytest.fixture(scope="session")
def file() -> Path:
    """The model's file; without it the tests skip, and say how to install it."""
    try:
        return smollm2_file()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def hugging_face(file: Path) -> Any:
    """Hugging Face's model, read from the file by transformers alone, in float32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def reference(
    hugging_face: Any, float64_throughout: Callable[[], AbstractContextManager[None]]
) -> Any:
    """The same in float64, to run in float64 throughout."""
    model = copy.deepcopy(hugging_face).double()
    rotary = model.model.rotary_emb
    with float64_throughout():  # its frequencies are float32 numbers otherwise
        model.model.rotary_emb = type(rotary)(model.config)
    for part in model.modules():
        if hasattr(part, "variance_epsilon"):
            part.variance_epsilon = 1e-5  # the file's float32 is not quite that
    return model


@pytest.fixture(scope="module", params=NAMES)
def backend(request: pytest.FixtureRequest) -> str:
    """Runs a test with either backend that there is."""
    if request.param not in available():
        pytest.skip(f"this TransformerLens has no backend {request.param!r}")
    return request.param


@pytest.fixture(scope="module")
def model(file: Path, backend: str) -> Any:
    """Our model in float32."""
    del file
    return load("smollm2", backend=backend, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def exact(file: Path, backend: str, reference: Any) -> Any:
    """Our model in float64; run it in float64 throughout."""
    del file
    model = load("smollm2", backend=backend, dtype="float64", device="cpu")
    for part in model.modules():  # a bridge keeps Hugging Face's float32 frequencies
        if "inv_freq" in part._buffers:
            part._buffers["inv_freq"] = reference.model.rotary_emb.inv_freq
    return model


@pytest.fixture(scope="session")
def chat_ids(file: Path) -> Callable[[str], list[int]]:
    """The token ids of a question under the chat template, as transformers renders it."""
    del file
    tokenizer = load_tokenizer("smollm2")

    def ids(question: str) -> list[int]:
        message = {"role": "user", "content": question}
        told = {"add_generation_prompt": True, "return_dict": True}
        return tokenizer.apply_chat_template([message], **told)["input_ids"]

    return ids
