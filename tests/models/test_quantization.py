"""Quantised checkpoints: read by Hugging Face's quantisers, run by the bridge, marked everywhere.

What runs here without a GPU and without a further package: FP8 and MXFP4, which are dequantised,
and a quantiser of these tests, whose layers keep their codes as those of bitsandbytes do.
"""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

import mi_lens
from mi_lens.models.backends.lookup import available, backend_of
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.models.loading import load_outline
from mi_lens.models.placement import default_dtype
from mi_lens.models.quantization import complete
from mi_lens.report.page import write_report
from mi_lens.runs.config import GenerateConfig
from mi_lens.runs.generate import run_generate

PROMPT = "A farmer has 37 boxes with 48 apples each; how many apples are left?"
HOOK = "blocks.1.hook_resid_post"


class CodedLinear(nn.Module):
    """A linear layer that holds a byte for every weight, and a scale for every row."""

    def __init__(self, linear):
        super().__init__()
        code = torch.zeros(linear.weight.shape, dtype=torch.int8)
        self.weight = nn.Parameter(code, requires_grad=False)
        self.scale = nn.Parameter(torch.zeros(linear.out_features, 1, dtype=torch.float32))
        self.bias = linear.bias

    def forward(self, x):
        weight = self.weight.to(x.dtype) * self.scale.to(x.dtype)
        return nn.functional.linear(x, weight, self.bias)


@register_quantization_config("codes_of_tests")
class CodesConfig(QuantizationConfigMixin):
    def __init__(self, **_):
        self.quant_method: Any = "codes_of_tests"


@register_quantizer("codes_of_tests")
class CodesQuantizer(HfQuantizer):
    """What the quantiser of a package is to Hugging Face, without the package."""

    requires_calibration = True

    def _process_model_before_weight_loading(self, model, **_):
        for name, module in list(model.named_modules()):
            if name.endswith("_proj"):
                with torch.device("meta"):
                    model.set_submodule(name, CodedLinear(module))

    def is_serializable(self) -> Any:
        return True

    @property
    def is_trainable(self) -> Any:
        return False


def rewrite(folder, method, changed):
    """Quantises a plain checkpoint in place; `changed` gives what stands for a matrix in it."""
    weights = load_file(folder / "model.safetensors")
    written = {}
    for name, weight in weights.items():
        written |= changed(name, weight) or {name: weight.to(torch.bfloat16)}
    save_file(written, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"quantization_config": method, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def coded(name, weight):
    if name.endswith("_proj.weight"):
        scale = weight.abs().amax(1, keepdim=True) / 127
        code = (weight / scale).round().to(torch.int8)
        return {name: code, name.removesuffix("weight") + "scale": scale}
    return None


def in_fp8(name, weight):
    """Blocks of 16 x 16 as 8-bit floats, each with a scale, as DeepSeek and Qwen publish them."""
    if name.endswith("_proj.weight"):
        rows, columns = weight.shape
        blocks = weight.reshape(rows // 16, 16, columns // 16, 16)
        scale = blocks.abs().amax((1, 3)) / 448
        codes = (blocks / scale[:, None, :, None]).reshape(rows, columns)
        return {name: codes.to(torch.float8_e4m3fn), f"{name}_scale_inv": scale}
    return None


FP8 = {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}
WAYS = {"codes_of_tests": ({"quant_method": "codes_of_tests"}, coded), "fp8": (FP8, in_fp8)}


@pytest.fixture(params=WAYS)
def quantised(request, new_checkpoint):
    """A quantised Llama with the weights that it stands for; its matrices divide by 16."""
    folder = new_checkpoint("llama3")
    rewrite(folder, *WAYS[request.param])
    return folder


def stood_for(folder):
    """The weights that a quantised file stands for, computed from its codes."""
    written = load_file(folder / "model.safetensors")
    plain = {}
    for name, weight in written.items():
        scale = written.get(f"{name}_scale_inv")
        if scale is not None:
            plain[name] = weight.float() * scale.repeat_interleave(16, 0).repeat_interleave(16, 1)
        elif (scale := written.get(name.removesuffix("weight") + "scale")) is not None:
            plain[name] = weight.float() * scale
        elif not name.endswith(("scale", "scale_inv")):
            plain[name] = weight.float()
    return plain


def test_the_bridge_computes_what_the_codes_stand_for(quantised, checkpoint, reference):
    """Equal to a plain model with the weights that the test computes from the codes."""
    model = mi_lens.load(quantised, dtype="float32", device="cpu")
    assert backend_of(model).name == "bridge"
    (trace,) = mi_lens.generate(model, [PROMPT], max_new_tokens=12, progress=False)
    (states,) = mi_lens.capture(model, [trace], HOOK)
    plain = reference(checkpoint("llama3"))
    plain.load_state_dict(stood_for(quantised), strict=False)
    ids = torch.tensor([[*trace.prompt_ids, *trace.token_ids]])
    with torch.no_grad():
        output = plain(ids, output_hidden_states=True)
    first = len(trace.prompt_ids) - 1
    expected = output.hidden_states[2][0, first:-1].float()
    assert (states[HOOK] - expected).norm() < 1e-5 * expected.norm()
    assert tuple(output.logits[0, first:-1].argmax(-1).tolist()) == trace.token_ids


def test_a_quantised_model_does_what_a_plain_one_does(quantised):
    model = mi_lens.load(quantised, device="cpu")
    assert model.cfg.dtype == torch.bfloat16  # the checkpoint's own, on a CPU too
    condition = [mi_lens.Recycle(1, list(range(6, 200))), mi_lens.Suppress(list(range(200, 250)))]
    baseline, changed = (
        mi_lens.generate(model, [PROMPT], what, max_new_tokens=12, progress=False)[0]
        for what in ((), condition)
    )
    assert changed.events
    (states,) = mi_lens.capture(model, [changed], HOOK)
    assert states[HOOK].dtype == torch.bfloat16
    assert mi_lens.hsic_mi(states[HOOK], states[HOOK][-1]).isfinite().all()
    assert len(baseline) == 12


def test_codes_and_scales_stay_as_they_are(new_checkpoint):
    folder = rewrite(new_checkpoint("llama3"), *WAYS["codes_of_tests"])
    written = load_file(folder / "model.safetensors")
    model = mi_lens.load(folder, dtype="float16", device="cpu")
    held = {
        name: tensor
        for name, tensor in model.original_model.named_parameters()
        if tensor.dtype != torch.float16
    }
    assert {tensor.dtype for tensor in held.values()} == {torch.int8, torch.float32}
    for kind in (torch.int8, torch.float32):
        theirs = [t for n, t in written.items() if t.dtype == kind and "_proj" in n]
        ours = [t for t in held.values() if t.dtype == kind]
        assert len(ours) == len(theirs) == 21
        assert sum(t.double().sum() for t in ours) == sum(t.double().sum() for t in theirs)


def test_every_record_of_a_model_says_that_it_is_quantised(quantised, tmp_path):
    said = {"codes_of_tests": "codes_of_tests", "fp8": "fp8 dequantised"}
    method = json.loads((quantised / "config.json").read_text())["quantization_config"]
    expected = f"({said[method['quant_method']]})"
    model = mi_lens.load(quantised, device="cpu")
    assert f"({model.quantization})" == expected
    fingerprint = model_fingerprint(model)
    assert fingerprint.endswith(f" {expected}")
    config = GenerateConfig(
        model=str(quantised), out=tmp_path / "run", limit=2, max_new_tokens=6, device="cpu"
    )
    traces = run_generate(config)
    assert {trace.model for trace in traces} == {fingerprint}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["model"] == fingerprint
    page = write_report([tmp_path / "run"], tmp_path / "page.html")
    assert fingerprint in page.read_text(encoding="utf-8")
    problems = mi_lens.load_problems("pocket", limit=2)
    evaluation = mi_lens.evaluate(
        model, problems, [mi_lens.Condition(name="baseline")], max_new_tokens=6, progress=False
    )
    assert evaluation.setting["model"] == fingerprint
    engine = mi_lens.load_engine(quantised, "huggingface", device="cpu")
    (trace, _) = mi_lens.generate(engine, problems, max_new_tokens=2, progress=False)
    assert f"{method['quant_method']} weights" in trace.condition.get("engine", "")
    assert trace.model.endswith(fingerprint.partition(" ")[2])


def test_plain_weights_are_not_marked(checkpoint):
    model = mi_lens.load(checkpoint("llama3"), device="cpu")
    assert model.quantization is None
    assert len(model_fingerprint(model)) == 16


@pytest.mark.skipif("hooked" not in available(), reason="this TransformerLens has only the bridge")
def test_the_hooked_backend_refuses_codes(quantised):
    for reader in (mi_lens.load, load_outline):
        with pytest.raises(ValueError, match=r"config\.json: .*'hooked'.*backend='bridge'"):
            reader(quantised, backend="hooked")


def test_an_outline_has_the_hooks_of_a_quantised_model(quantised):
    outline, model = load_outline(quantised), mi_lens.load(quantised, device="cpu")
    assert backend_of(outline).hook_names(outline) == backend_of(model).hook_names(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "awq", "bits": 4}, r"'awq', and a package.*pip install gptqmodel"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "pip install .*bitsandbytes"),
        ({"load_in_8bit": True}, "'bitsandbytes_8bit', and a package.*pip install .*bitsandbytes"),
        ({"quant_method": "compressed-tensors"}, "pip install compressed-tensors"),
        ({"quant_method": "gptq", "bits": 4}, "pip install optimum"),
        ({"quant_method": "torchao", "quant_type": {"default": {}}}, "pip install torchao"),
        ({"quant_method": "fbgemm_fp8"}, "requires a GPU"),
        ({"quant_method": "higgs"}, "'higgs', and cannot be read on cpu here: .*only supported on"),
        ({"quant_method": "magic"}, r"'magic' .*Hugging Face reads .*awq.*mxfp4"),
        ({}, r"quantised by None \(quantization_config\.quant_method\)"),
        ("awq", "quantised by None"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_read(settings, message, new_checkpoint):
    from importlib.util import find_spec

    package = {"awq": "gptqmodel", "gptq": "optimum"}
    method = "" if not settings or settings == "awq" else settings.get("quant_method")
    method = "bitsandbytes" if method is None else method
    if method and find_spec(package.get(method, method.replace("-", "_")) or ""):
        pytest.skip("the package is here")
    folder = new_checkpoint("llama3")
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    with pytest.raises((ValueError, ImportError), match=message) as error:
        mi_lens.load(folder, device="cpu")
    assert str(folder / "config.json") in str(error.value)


def test_the_default_dtype_of_quantised_weights_is_their_own():
    for own in ("float16", "bfloat16"):
        config = {"dtype": own, "quantization_config": {"quant_method": "awq"}}
        for device in ("cpu", "cuda"):
            assert default_dtype(config, torch.device(device)) == getattr(torch, own)


FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def in_mxfp4(name, weight):
    """Experts as 4-bit floats: 32 with a power of two in common, two in a byte, as in gpt-oss."""
    if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
        return None
    groups = weight.transpose(1, 2).unflatten(2, (-1, 32))
    power = (groups.abs().amax(-1, keepdim=True) / 6).log2().ceil()
    scaled = groups / power.exp2()
    code = (scaled.abs()[..., None] - FP4).abs().argmin(-1) + 8 * (scaled < 0)
    blocks = code[..., 0::2] + 16 * code[..., 1::2]
    scales = power.squeeze(-1) + 127
    return {f"{name}_blocks": blocks.to(torch.uint8), f"{name}_scales": scales.to(torch.uint8)}


def read_mxfp4(blocks, scales):
    code = torch.stack([blocks % 16, blocks // 16], dim=-1).flatten(-2).long()
    value = FP4[code % 8] * torch.where(code < 8, 1.0, -1.0)
    value = value * (scales.float() - 127).exp2()[..., None]
    return value.flatten(2).transpose(1, 2)


def test_gpt_oss_as_it_is_published_is_read(tmp_path, tokenizer):
    """MXFP4 as gpt-oss-20b ships it, in a tiny model: the states of the weights by hand."""
    from transformers import AutoModelForCausalLM, GptOssConfig

    config = GptOssConfig(
        vocab_size=390,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=8,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    plain.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    rewrite(tmp_path, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}, in_mxfp4)
    written = load_file(tmp_path / "model.safetensors")
    weights = {name: tensor for name, tensor in written.items() if tensor.dtype != torch.uint8}
    for name, blocks in written.items():
        if name.endswith("_blocks"):
            expert = name.removesuffix("_blocks")
            weights[expert] = read_mxfp4(blocks, written[f"{expert}_scales"])
    plain.load_state_dict(weights)
    model = mi_lens.load(tmp_path, dtype="float32", device="cpu")
    assert model.quantization == "mxfp4 dequantised"
    (trace,) = mi_lens.generate(model, [PROMPT], max_new_tokens=12, progress=False)
    (states,) = mi_lens.capture(model, [trace], HOOK)
    ids = torch.tensor([[*trace.prompt_ids, *trace.token_ids]])
    with torch.no_grad():
        output = plain(ids, output_hidden_states=True)
    first = len(trace.prompt_ids) - 1
    # Hugging Face's last hidden state is after the final norm; so is this one.
    normed = model.ln_final(states[HOOK][None])[0]
    assert torch.allclose(normed, output.hidden_states[2][0, first:-1], atol=1e-4)
    assert tuple(output.logits[0, first:-1].argmax(-1).tolist()) == trace.token_ids


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_is_read_where_it_is_installed(bits, checkpoint, tmp_path, tokenizer):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    way = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    made = AutoModelForCausalLM.from_pretrained(
        checkpoint("llama3"), quantization_config=way, dtype=torch.bfloat16, device_map="cpu"
    )
    made.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = mi_lens.load(tmp_path, device="cpu")
    assert model.quantization == f"bitsandbytes_{bits}bit"
    fingerprint = model_fingerprint(model)
    tokens = torch.arange(6, 26)[None]
    logits = backend_of(model).forward(model, tokens, torch.ones_like(tokens))
    assert model_fingerprint(model) == fingerprint
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, device_map="cpu", attn_implementation="eager"
    )
    complete(theirs)
    with torch.no_grad():
        expected = theirs(tokens).logits
    assert (logits - expected).abs().max() < 0.05 * expected.std()
