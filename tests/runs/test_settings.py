import pytest

from mi_lens.cli import main
from mi_lens.runs.config import GenerateConfig
from mi_lens.runs.settings import parse_options
from mi_lens.runs.sweep_spec import Spec
from tests.processes import result_of


def test_options_are_names_with_literal_values():
    texts = ["tensor_parallel_size=2", "kv_cache_dtype='fp8'", " enforce_eager = True", "a=[1, 2]"]
    assert parse_options(texts) == {
        "tensor_parallel_size": 2,
        "kv_cache_dtype": "fp8",
        "enforce_eager": True,
        "a": [1, 2],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_num_seqs", r"engine_options: 'max_num_seqs'; expected name=value"),
        ("max_num_seqs=", r"engine_options: 'max_num_seqs='; expected name=value"),
        ("max-num-seqs=4", r"engine_options: 'max-num-seqs=4'; expected name=value"),
        ("kv_cache_dtype=fp8", r"'kv_cache_dtype=fp8'; expected .*attn_implementation='eager'"),
        ("seed=print(1)", r"'seed=print\(1\)'; expected name=value"),
        ("dtype='float32'", r"'dtype' has the setting dtype of its own; leave it out"),
    ],
)
def test_a_malformed_option_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        GenerateConfig(out=tmp_path, engine="vllm", engine_options=(text,))
    with pytest.raises(ValueError, match=message):
        Spec.of({"conditions": ["baseline"], "engine": "vllm", "engine_options": text})


def test_an_option_given_twice_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"'a=2': 'a' is there already"):
        GenerateConfig(out=tmp_path, engine="vllm", engine_options=("a=1", "a=2"))


def test_settings_of_one_engine_are_refused_for_another(tmp_path):
    with pytest.raises(ValueError, match="engine 'transformer_lens' has none"):
        GenerateConfig(out=tmp_path, engine_options=("a=1",))
    with pytest.raises(ValueError, match="backend='bridge' with engine='vllm': a backend is of"):
        GenerateConfig(out=tmp_path, engine="vllm", backend="bridge")
    message = result_of(refusal_of_an_unknown_engine)
    assert message.startswith("engine='hf': Input should be 'transformer_lens', 'huggingface' or")


def refusal_of_an_unknown_engine():
    with pytest.raises(ValueError, match="engine='hf'") as refused:
        Spec.of({"conditions": ["baseline"], "engine": "hf"})
    return str(refused.value)


def test_the_commands_say_what_is_wrong(tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as ended:
        main(["generate", "--engine", "huggingface", "--engine-options", "rows", *out])
    assert ended.value.code == 2
    assert "engine_options: 'rows'; expected name=value" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
