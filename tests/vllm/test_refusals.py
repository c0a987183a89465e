"""What cannot be asked of vLLM is refused by name, before or after it starts."""

from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file

from mi_lens.generation.engines.lookup import load_engine
from mi_lens.generation.engines.vllm_worker.layers import Layers
from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.recycle import Recycle
from mi_lens.interventions.steer import Steer
from mi_lens.models.loading import load
from tests.gguf_files import write_gguf

pytestmark = pytest.mark.vllm


@dataclass(frozen=True)
class Mine(Intervention):
    def bind(self, model):
        return Action()

    def to_json(self):
        return {}


@pytest.fixture(scope="module")
def folder(tiny):
    return str(tiny("llama"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 3}, r"engine 'vllm' with the options .*'rows': 3.*unexpected.*leave out"),
        ({"enable_lora": True}, r"enable_lora=True: adapters change layers"),
        ({"speculative_config": {"model": "ngram"}}, r"speculative_config=.*'ngram'.*drafted"),
        ({"async_scheduling": True}, r"async_scheduling=True: a step must know the token"),
        ({"worker_extension_cls": "a.B"}, r"worker_extension_cls='a.B': this engine has its own"),
        ({"dtype": "float64"}, r"dtype='float64': vLLM has no kernels for it; expected 'float32'"),
        ({"device": "cuda"}, r"device='cuda': the installed vLLM.* runs on 'cpu'; leave"),
        ({"compiled": ["blocks.0.hook_attn_out"]}, r"hook name 'blocks.0.hook_attn_out': on vLLM"),
        ({"max_model_len": 4096}, r"(?s)max_model_len.*4096.*256"),
        ({"num_gpu_blocks_override": 1, "block_size": 32}, r"max_model_len=256.*smaller max_model"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_option_that_does_not_fit(folder, options, message):
    with pytest.raises(ValueError, match=message):
        load_engine(folder, "vllm", **options)


def test_another_version(folder, monkeypatch):
    import vllm

    for version in ("0.31.2", "0.33.0", "1.0.0"):
        monkeypatch.setattr(vllm, "__version__", version)
        message = rf"vLLM {version} is installed.*expected 0.32.x: pip install 'vllm==0.32"
        with pytest.raises(ValueError, match=message):
            load_engine(folder, "vllm")


def test_its_other_model_runner(folder, monkeypatch):
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    with pytest.raises(ValueError, match=r"VLLM_USE_V2_MODEL_RUNNER is set.*unset"):
        load_engine(folder, "vllm")


def test_a_gguf_file(folder, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM

    path = tmp_path / "m.gguf"
    write_gguf(path, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tokenizer)
    with pytest.raises(ValueError, match=r"m\.gguf: vLLM is given folders of safetensors.*folder"):
        load_engine(path, "vllm")


def test_a_folder_without_weights(new_checkpoint):
    folder = new_checkpoint("llama")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_engine(folder, "vllm")


def test_a_request_that_does_not_fit(engine, folder):
    made = engine(folder)
    steer = Steer(torch.ones(64), "blocks.1.hook_attn_out")
    cases = [
        (Request("q", Condition((Mine(),))), r"request 0 asks for Mine, a class of your own.*vllm"),
        (Request("q", Condition((steer,))), r"steering at 'blocks.1.hook_attn_out'.*resid_post"),
        (Request("q", Condition((Recycle(3, ["so"]),))), r"the model has 3 layers"),
        (Request("word " * 300), r"its prompt has \d+ tokens and the model's context 256"),
    ]
    for request, message in cases:
        with pytest.raises(ValueError, match=message):
            generate(made, [request], progress=False)
    message = r"the engine vllm 0.32.* runs no hooks of Transform"
    with pytest.raises(ValueError, match=message):
        generate(made, ["q"], fwd_hooks=[("blocks.0.hook_resid_post", print)], progress=False)
    with pytest.raises(ValueError, match=message):
        generate(made, ["q"], hooks_named="mine", progress=False)
    ours = generate(load(folder, dtype="float32"), ["q"], max_new_tokens=5, progress=False)
    theirs = generate(made, ["q"], max_new_tokens=5, progress=False)
    assert [t.token_ids for t in ours] == [t.token_ids for t in theirs]


def test_a_text_ends_with_a_shorter_context(engine, folder):
    short = engine(folder, max_model_len=64)
    assert short.model.cfg.n_ctx == 64
    (trace,) = generate(short, ["What is 12 * 7?"], max_new_tokens=200, progress=False)
    (ours,) = generate(
        load(folder, dtype="float32"), ["What is 12 * 7?"], max_new_tokens=200, progress=False
    )
    assert trace.stop_reason == "context"
    assert len(trace.prompt_ids) + len(trace) == 64
    assert trace.token_ids == ours.token_ids[: len(trace)]
    with pytest.raises(ValueError, match="the model's context 64"):
        generate(short, ["word " * 80], progress=False)


def broken(folder, tmp_path, name="lm_head.weight"):
    """The checkpoint with a NaN in a weight that reads a token's state."""
    import shutil

    copy = shutil.copytree(folder, tmp_path / "broken")
    weights = load_file(copy / "model.safetensors")
    name = name if name in weights else "model.embed_tokens.weight"
    weights[name][7, 3] = torch.nan
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return str(copy)


def test_weights_that_are_no_numbers(engine, folder, tmp_path):
    folder = broken(folder, tmp_path)
    with pytest.raises(ValueError, match=r"the logits at step 0 hold nan"):
        generate(engine(folder), ["q"], progress=False)


def test_a_closed_engine(engine, folder):
    made = engine(folder)
    made.close()
    made.close()
    with pytest.raises(RuntimeError, match=r"the engine vllm 0.32.* was closed; load it again"):
        generate(made, ["q"], progress=False)


def test_a_model_that_does_more_than_its_layers(tiny, monkeypatch):
    logits = Layers.logits
    monkeypatch.setattr(Layers, "logits", lambda self, stream: 1.5 * logits(self, stream))
    with pytest.raises(ValueError, match="run again one after another, the layers of this model"):
        load_engine(tiny("llama"))
