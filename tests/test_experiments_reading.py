"""Studies of texts that a model reads, and those on SmolLM2 with a pocket model in its place."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

import mi_lens
from experiments import smollm2
from experiments.labels import label_of_record
from experiments.layer_sweep import bits, openers
from experiments.mi_study import MIReadingStudy, saved_analysis, texts_of
from experiments.study import Study, save
from experiments.words_by_ending import likeness, shown
from tests.processes import result_of
from tests.test_experiments import finding

STEPS = 40


@pytest.fixture(scope="module")
def traces() -> list[mi_lens.Trace]:
    """What the pocket reasoner writes of six problems."""
    model = mi_lens.load("pocket-reasoner")
    problems = mi_lens.load_problems("pocket", limit=6)
    return mi_lens.generate(model, problems, max_new_tokens=120, progress=False)


@pytest.fixture(scope="module")
def texts(traces: list[mi_lens.Trace], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with these traces as texts of a reasoner, in the files that SmolLM2 reads."""
    folder = tmp_path_factory.mktemp("texts")
    rows = [
        {
            "id": f"text {i}",
            "model": "a large reasoner",
            "question": trace.problem.question,
            "gold": trace.problem.answer,
            "is_correct": i % 2 == 0,
            "response": trace.text,
        }
        for i, trace in enumerate(traces)
        if trace.problem is not None
    ]
    for name in (smollm2.TEXTS, smollm2.THOUGHTS):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_texts_are_read_up_to_a_number_of_tokens(texts: Path):
    tokenizer = mi_lens.load("pocket-reasoner").tokenizer
    read = texts_of(texts / smollm2.TEXTS, 4, STEPS, tokenizer)
    assert len(read) == 4
    assert all(len(trace) <= STEPS for trace in read)
    shorter = texts_of(texts / smollm2.TEXTS, 4, 20, tokenizer)
    assert len({trace.id for trace in (*read, *shorter)}) == 8
    for i, trace in enumerate(read):
        problem = trace.require_problem("that was read")
        assert trace.prompt == problem.question
        assert problem.solution == f"The answer is {problem.answer}."
        assert trace.is_correct is (i % 2 == 0)
        assert trace.text == tokenizer.decode(trace.token_ids)


def test_the_states_of_a_text_are_those_of_a_plain_forward_pass(texts: Path, tmp_path: Path):
    config = MIReadingStudy(
        texts=texts / smollm2.TEXTS, limit=3, steps=STEPS, runs=tmp_path, ending="blank_line"
    )
    analysis = saved_analysis(config)
    model = mi_lens.load("pocket-reasoner")
    last = analysis.hook_names[-1]
    trace = analysis.traces[1]
    problem = trace.require_problem("that was read")
    _, cache = model.run_with_cache(torch.tensor([[*trace.prompt_ids, *trace.token_ids]]))
    states = cache[last][0, len(trace.prompt_ids) - 1 : -1]
    _, cache = model.run_with_cache(model.to_tokens(f"The answer is {problem.answer}.\n\n"))
    answer = cache[last][0, -1]
    assert analysis.mi(trace, last) == pytest.approx(mi_lens.hsic_mi(states, answer).tolist(), 1e-4)
    assert saved_analysis(config).measurements.keys() == analysis.measurements.keys()
    assert len([*tmp_path.iterdir()]) == 1


@pytest.mark.slow
def test_the_studies_on_smollm2_write_their_page(texts: Path, tmp_path: Path):
    config = smollm2.Config(
        studies=("layer_map", "mi_trajectories"),
        model="pocket-reasoner",
        problems="pocket",
        limit=3,
        max_new_tokens=80,
        data=texts,
        texts=3,
        steps=STEPS,
        runs=tmp_path / "runs",
        out=tmp_path / "figures",
    )
    result_of(smollm2.main, config)
    page = (tmp_path / "figures" / "README.md").read_text(encoding="utf-8")
    assert page.index("(layer_map.png)") < page.index("## Traces of R1 that it reads")
    assert page.index("## Traces of R1 that it reads") < page.index("(reading/layer_map.png)")
    assert "a finding about reasoning models" in page
    for path in (tmp_path / "figures").rglob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        assert label_of_record(record) == record["label"]
        assert record["seconds"]["study"]["clock"] > 0
        assert record["seconds"]["analysis that studies share"]["processor"] > 0
        reads = path.parent.name == "reading"
        assert ("the model reads (teacher-forced), and did not write," in record["scope"]) == reads
        assert ("--texts" in record["command"]) == reads


def test_studies_that_read_are_skipped_where_the_texts_are_not(tmp_path: Path, capsys):
    config = smollm2.Config(
        studies=("separability_by_layer", "layer_sweep"), data=tmp_path, runs=tmp_path, out=tmp_path
    )
    smollm2.main(config)
    assert "so studies that read are skipped" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    with pytest.raises(SystemExit, match=r"unknown studies \['suppression'\]; expected some of"):
        smollm2.main(smollm2.Config(studies=("suppression",), out=tmp_path))


@dataclass(frozen=True, kw_only=True)
class Example(Study):
    """A study of this module."""


def test_a_claim_on_reasoners_is_not_tested_on_an_instruct_model(tmp_path: Path):
    for effect in (0.7, -0.7):
        config = Example(model="smollm2", problems="grade-school", limit=20, out=tmp_path)
        figure = plt.figure()
        save(config, {"smollm2": "f"}, figure, finding(effect), {})
        text = (tmp_path / "test_experiments_reading.json").read_text(encoding="utf-8")
        record = json.loads(text)
        assert record["label"] == label_of_record(record) == "not a reasoner"
        assert "not a reasoner" in record["premises"][0]["text"]
        assert "a 135M instruct model, not a reasoner; 20 problems" in figure.get_supxlabel()


def test_words_that_open_sentences_are_counted(traces: list[mi_lens.Trace]):
    tokenizer = mi_lens.load("pocket-reasoner").tokenizer
    text = "So it is. Wait! So. Let me\nSo 7 is. 8 Hmm"
    assert openers([replace(traces[0], text=text)], tokenizer, 2) == ("So", "Wait")


def test_bits_are_those_of_the_models_own_distribution(traces: list[mi_lens.Trace]):
    model = mi_lens.load("pocket-reasoner")
    trace = traces[0]
    logits = model(torch.tensor([[*trace.prompt_ids, *trace.token_ids]]))[0].double()
    log_p = logits.log_softmax(-1)[len(trace.prompt_ids) - 1 : -1]
    expected = -log_p[range(len(trace)), list(trace.token_ids)].mean() / torch.tensor(2.0).log()
    assert bits(model, traces[:2])[0] == pytest.approx(float(expected), 1e-4)


def test_the_common_part_of_words_is_one_for_equal_counts():
    own = [Counter(so=3, wait=1), Counter(so=1)]
    assert likeness(own, own, 0).mean == pytest.approx(1.0)
    other = [Counter({"wait": 2}), Counter({".": 2})]
    assert likeness(own, other, 0).mean == pytest.approx(0.2)  # "wait": 1 of 5 and 2 of 4
    assert likeness(own, [Counter(), Counter()], 0).mean is None
    strings = (" Wait", "\n\n", " .", " ", "<|im_end|>")
    assert [shown(string) for string in strings] == ["wait", "“↵↵”", "“.”", "“ ”", "“<|im_end|>”"]
