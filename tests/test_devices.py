"""Every public function on devices that a machine without a GPU lacks, against the same on the CPU.

`CALLS` holds a call of each public function that takes tensors, a model or a device. `WITHOUT`
holds the public names that touch no tensor. A new public name must be in one of them.
"""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import mi_lens
from mi_lens.common.float64 import float64_device
from mi_lens.models import self_check
from mi_lens.models.backends import bridge
from mi_lens.models.backends.lookup import available
from mi_lens.models.pocket import CHECKPOINTS
from tests.pretend_device import pretend_devices

pytestmark = [
    pytest.mark.skipif(torch.backends.cuda.is_built(), reason="PyTorch has its own CUDA"),
    pytest.mark.skipif("hooked" not in available(), reason="no HookedTransformer"),
    pytest.mark.filterwarnings("ignore:device .* has no float64"),
]
HOOK, LAST = "blocks.1.hook_resid_post", "blocks.3.hook_resid_post"
WORDS = ["Wait", "Hmm", "Alternatively", "Actually"]
draws = torch.Generator().manual_seed(0)
STATES, OTHERS = torch.randn(12, 8, generator=draws), torch.randn(20, 8, generator=draws)
LABELS, SERIES = torch.arange(12) % 2, STATES[:, 0]


@dataclass
class Given:
    """What the calls are made with.

    Attributes:
        model: The pocket reasoner, on the device.
        device: The device.
        folder: An empty folder.
        traces: Traces of the pocket reasoner, whole ones.
        states: Their states at the last block's output, on the device.
        answer: State of the first trace's answer there, on the device.
    """

    model: Any
    device: torch.device
    folder: Path
    traces: list[mi_lens.Trace]
    states: list[Tensor]
    answer: Tensor

    @property
    def problems(self) -> list[mi_lens.Problem]:
        """The traces' problems."""
        return [trace.problem for trace in self.traces if trace.problem]

    def on(self, tensor: Tensor) -> Tensor:
        """The tensor on the device."""
        return tensor.to(self.device)

    def generate(self, *interventions: Any, **settings: Any) -> list[Any]:
        """Token ids, texts and events of two short traces under interventions."""
        asked = self.problems[:2]
        settings |= {"max_new_tokens": 6, "progress": False}
        traces = mi_lens.generate(self.model, asked, interventions, **settings)
        return [(trace.token_ids, trace.text, trace.events) for trace in traces]

    def vectors(self) -> dict[str, mi_lens.SteeringVector]:
        """SEAL's vectors from the traces."""
        return mi_lens.extract_steering_vectors(self.model, self.traces, [HOOK])

    def uncertainty(self) -> dict[str, np.ndarray]:
        """The uncertainty of the first trace's next tokens."""
        return mi_lens.next_token_uncertainty(self.model, self.traces[0], self.states[0])

    def run_settings(self) -> dict[str, Any]:
        """Settings of a small run on the device."""
        backend = "hooked" if type(self.model).__name__ == "HookedTransformer" else "bridge"
        return {"limit": 1, "max_new_tokens": 8, "device": str(self.device), "backend": backend}


def probe_of(g: Given) -> mi_lens.StateProbe:
    """A probe with any weights."""
    weights = torch.linspace(-1, 1, g.model.cfg.d_model).tolist()
    return mi_lens.StateProbe(LAST, weights, 0.0, "", "peak", 0.5, 0.4, 0.6, 1, 1, (0.0, 1.0), {})


def interventions(g: Given) -> dict[str, Any]:
    """Every kind of intervention."""
    direction = g.on(torch.linspace(-1, 1, g.model.cfg.d_model))
    return {
        "Continue": mi_lens.Continue(["Wait"], times=1, reserve=4),
        "Gate": mi_lens.Gate(mi_lens.Steer(direction, HOOK, 3.0, at="all"), entropy=1.0, times=3),
        "StateProbe": mi_lens.Gate(mi_lens.Suppress(WORDS), probe=probe_of(g)),
        "LogitPenalty": mi_lens.LogitPenalty(WORDS, -2.0),
        "RaiseTemperature": mi_lens.RaiseTemperature(["First", "Now"], 2.0),
        "EarlyExit": mi_lens.EarlyExit(0.5, "boundary"),
        "ProbeExit": mi_lens.ProbeExit(probe_of(g)),
        "Schedule": mi_lens.Schedule(30),
        "Recycle": mi_lens.Recycle(2, ["start", "comes", "get", "4"], passes=2),
        "Steer": mi_lens.Steer(direction, HOOK, alpha=3.0, at="all", prompt=True),
        "Suppress": mi_lens.Suppress(["So", "Okay", "Well"]),
    }


INTERVENTIONS = (
    "Continue", "EarlyExit", "Gate", "LogitPenalty", "ProbeExit", "RaiseTemperature", "Recycle",
    "Schedule", "StateProbe", "Steer", "Suppress",
)  # fmt: skip


def trained_probe(g: Given) -> Any:
    """A probe of traces, each once more with a question and a gold answer of its own; its file."""
    twice = [(p.question, p.answer, trace) for p, trace in zip(g.problems, g.traces, strict=True)]
    twice += [(f"{question} Again.", "-1", trace) for question, _, trace in twice]
    traces = [
        dataclasses.replace(
            trace, problem=dataclasses.replace(trace.problem, question=question, answer=answer)
        )
        for question, answer, trace in twice
        if trace.problem
    ]
    probe = mi_lens.train_correctness_probe(g.model, traces, HOOK, folds=3)
    again = saved(g, mi_lens.StateProbe.save, mi_lens.StateProbe.load, probe)
    return again.weights, again.auc


def with_hook(g: Given) -> Any:
    """Generation with a user's hook that uses a tensor on the device."""
    shift = g.on(torch.full((g.model.cfg.d_model,), 0.3))
    hooks = [(HOOK, lambda state, hook: state + shift)]
    return g.generate(fwd_hooks=hooks, hooks_named="shift")


def run_with_cache(g: Given) -> Any:
    """A cache of TransformerLens's own."""
    trace = g.traces[0]
    tokens = g.on(torch.tensor([[*trace.prompt_ids, *trace.token_ids]]))
    return g.model.run_with_cache(tokens, names_filter=lambda name: name == LAST)[1]


def saved(g: Given, save: Callable[[Any, Path], Any], load: Callable[[Path], Any], value: Any):
    """What is read of a value that was written."""
    save(value, g.folder / "file")
    return load(g.folder / "file")


def steered_by_every_file(g: Given) -> Any:
    """Vectors through both kinds of file, and what they do to a generation."""
    vectors = g.vectors()
    again = saved(g, mi_lens.save_vectors, mi_lens.load_vectors, vectors)
    own = {1: g.on(vectors[HOOK].vector)}
    control = saved(g, mi_lens.save_gguf, mi_lens.load_gguf, own)
    steer = mi_lens.Steer(again[HOOK], alpha=5.0, at="all", allow_overlap=True)
    return again[HOOK].vector, control, g.generate(steer)


@functools.cache
def trained_on_the_host(backend: str) -> mi_lens.TunedLens:
    """A lens after one update on one trace; the pretended device has no gradients."""
    once = mi_lens.LensTraining(updates=1, traces_per_update=1, learning_rate=0.01)
    return mi_lens.train_lens(model_at(CPU[backend]), host()[0][:1], once)


def lens_of(g: Given) -> mi_lens.TunedLens:
    """A lens for the model."""
    return trained_on_the_host(
        "hooked" if type(g.model).__name__ == "HookedTransformer" else "bridge"
    )


def results(evaluation: mi_lens.Evaluation) -> list[Any]:
    """All results of an evaluation, but the seconds they took."""
    return [dataclasses.replace(result, seconds=None) for result in evaluation.results]


def evaluated(g: Given) -> list[Any]:
    """Two conditions on one problem."""
    conditions = [mi_lens.Condition(), mi_lens.Condition((mi_lens.Suppress(WORDS),))]
    settings: Any = {"max_new_tokens": 6, "progress": False}
    return results(mi_lens.evaluate(g.model, g.problems[:1], conditions, **settings))


def resampled(g: Given) -> list[Any]:
    """Two continuations with the last thought of a trace, and two without it."""
    thoughts = mi_lens.split_thoughts(g.model.tokenizer, g.traces[0])
    budget = len(g.traces[0]) + 4
    settings: Any = {"samples": 2, "least": 1, "max_new_tokens": budget}
    return mi_lens.resample_thoughts(g.model, g.traces[:1], [thoughts[-1:]], **settings)


def on_an_engine(g: Given) -> Any:
    """Two traces by our own loop as an engine, and what it says of itself."""
    with mock.patch("mi_lens.models.loading.load", return_value=g.model):
        engine = mi_lens.load_engine("pocket-reasoner", "transformer_lens")
    traces = mi_lens.generate(engine, g.problems[:2], max_new_tokens=6, progress=False)
    return [trace.token_ids for trace in traces], engine.device == g.device.type


def swept(g: Given) -> list[Any]:
    """A sweep of one condition on one problem; `analyzed` loads its own model."""
    spec = mi_lens.Spec(("baseline",), **g.run_settings())
    with mock.patch("mi_lens.models.loading.load", return_value=g.model):
        found = mi_lens.run_sweep(spec, g.folder / "sweep", progress=False)
    return results(found["pocket-reasoner"])


def analyzed(g: Given) -> Any:
    """The measurements of one trace."""
    config = mi_lens.AnalyzeConfig(out=g.folder / "analysis", mismatched=4, **g.run_settings())
    return mi_lens.analyze(config, progress=False).measurements.values()


def at_all_steps(g: Given, labels: Sequence[Any]) -> Any:
    at = mi_lens.at_fraction(g.traces * 3, 0.5)
    return mi_lens.information_at(at, g.states * 3, labels, folds=3, shuffles=1)


Call = Callable[[Given], Any]
ON_NUMBERS: dict[str, Call] = {
    "hsic_mi": lambda g: (
        mi_lens.hsic_mi(g.on(STATES), g.on(OTHERS)),
        mi_lens.hsic_mi(g.on(STATES), g.on(OTHERS[0]), sigma="median"),
        mi_lens.hsic_mi(g.on(STATES).bfloat16(), g.on(OTHERS[0])),
    ),
    "mi_trajectories": lambda g: mi_lens.mi_trajectories({LAST: g.states[0]}, {LAST: g.answer}),
    "find_peaks": lambda g: (
        mi_lens.find_peaks(g.on(SERIES)),
        mi_lens.find_peaks(list(g.on(SERIES))),  # type: ignore[arg-type]
    ),
    "top_k_peaks": lambda g: mi_lens.top_k_peaks(g.on(SERIES), 3),
    "peak_statistics": lambda g: mi_lens.peak_statistics(g.on(SERIES), [1, 5]),
    "massive_coordinates": lambda g: mi_lens.massive_coordinates(
        g.on(STATES), g.on(OTHERS[0]), 2.0
    ),
    "without_massive": lambda g: mi_lens.without_massive(g.on(STATES), g.on(OTHERS[0]), ratio=2.0),
    "mismatched_gold": lambda g: mi_lens.mismatched_gold(
        g.on(STATES), g.on(OTHERS[0]), g.on(OTHERS[1:])
    ),
    "permuted_coordinates": lambda g: mi_lens.permuted_coordinates(
        g.on(STATES), g.on(OTHERS[0]), permutations=3
    ),
    "scale_sweep": lambda g: mi_lens.scale_sweep(g.on(STATES), g.on(OTHERS[0]), [0.5, 2.0]),
    "sigma_sweep": lambda g: mi_lens.sigma_sweep(g.on(STATES), g.on(OTHERS[0]), [5.0, 50.0]),
    "squared_correlation": lambda g: mi_lens.squared_correlation(g.on(STATES), g.on(OTHERS[0])),
    "covariates": lambda g: mi_lens.covariates(g.states[0], g.answer, g.uncertainty()),
    "usable_information": lambda g: mi_lens.usable_information(
        g.on(STATES), g.on(LABELS), folds=3, shuffles=1
    ),
    "digits_information": lambda g: mi_lens.digits_information(
        g.on(STATES), [10 + i % 2 for i in range(12)], folds=3, shuffles=1
    ),
    "independence_test": lambda g: (
        mi_lens.independence_test(g.on(STATES), g.on(LABELS), permutations=9),
        mi_lens.independence_test(g.on(STATES), g.on(SERIES), numeric=True, permutations=9),
        mi_lens.independence_test(g.on(STATES), list(g.on(SERIES)), numeric=True, permutations=9),
    ),
    "accumulated_information": lambda g: mi_lens.accumulated_information(
        [g.on(STATES), g.on(STATES.flip(1))], g.on(LABELS), folds=3, shuffles=1
    ),
    "error_bounds": lambda g: mi_lens.error_bounds(2.0, abs(g.on(SERIES)), 4),
    "information_at": lambda g: at_all_steps(g, [str(i % 2) for i in range(12)]),
    "coordinates": lambda g: np.abs(mi_lens.coordinates(g.on(STATES))),
    "plot_map": lambda g: [
        type(artist).__name__
        for artist in mi_lens.plot_map({LAST: g.on(SERIES)}).axes[0].get_children()
    ],
    "plot_trace": lambda g: [
        type(artist).__name__
        for artist in mi_lens.plot_trace(g.traces[0], entropy=g.states[0][:, 0].abs())
        .axes[0]
        .get_children()
    ],
    "show": lambda g: mi_lens.show(
        g.traces[0], g.states[0][:, 0], [2, 4], tokenizer=g.model.tokenizer
    ),
    "save_activations": lambda g: saved(
        g, mi_lens.save_activations, mi_lens.load_activations, {LAST: g.states[0]}
    ),
}
ON_MODELS: dict[str, Call] = {
    "lens_divergences": lambda g: mi_lens.lens_divergences(g.model, lens_of(g), g.traces[1]),
    "answer_lens": lambda g: mi_lens.answer_lens(g.model, g.traces[1:3], lens_of(g)),
    "load": lambda g: (
        str(g.model.cfg.device) == str(g.device),
        {weight.device.type == g.device.type for weight in g.model.state_dict().values()},
    ),
    "model_fingerprint": lambda g: mi_lens.model_fingerprint(g.model),
    "match_hook_names": lambda g: mi_lens.match_hook_names(g.model, "blocks.*.hook_resid_post"),
    "word_ids": lambda g: mi_lens.word_ids(g.model, WORDS),
    "load_engine": on_an_engine,
    "Plan": lambda g: mi_lens.Plan(g.model).fingerprint,
    "generate": lambda g: (
        g.generate(),
        g.generate(temperature=0.8, top_p=0.9, top_k=20, seed=3),
        g.generate(batch_size=1),
        g.generate(stop=["\n\n"]),
    ),
    **{name: lambda g, name=name: g.generate(interventions(g)[name]) for name in INTERVENTIONS},
    "fwd_hooks": with_hook,
    "capture": lambda g: mi_lens.capture(g.model, g.traces[:2], [HOOK, LAST]),
    "capture_into": lambda g: [
        mi_lens.load_activations(path)
        for path in mi_lens.capture_into(g.model, g.traces[:1], [HOOK], g.folder)
    ],
    "states_of": lambda g: mi_lens.states_of(run_with_cache(g), g.traces[0]),
    "answer_state": lambda g: (
        mi_lens.answer_state(g.model, g.problems[0], LAST),
        mi_lens.answer_state(g.model, g.problems[0], LAST, site="answer_mean"),
    ),
    "attention_by_step": lambda g: mi_lens.attention_by_step(g.model, g.traces[0], WORDS),
    "attention_to_words": lambda g: mi_lens.attention_to_words(g.model, g.traces[:2], WORDS),
    "next_token_uncertainty": lambda g: g.uncertainty(),
    "entropy_quantile": lambda g: mi_lens.entropy_quantile(g.model, g.traces[:2], 0.8),
    "next_token_similarity": lambda g: mi_lens.next_token_similarity(
        g.model, g.traces[0], g.states[0], g.answer
    ),
    "answer_probability": lambda g: mi_lens.answer_probability(
        g.model, g.traces[0], {LAST: g.states[0]}
    ),
    "thinking_tokens": lambda g: mi_lens.thinking_tokens(
        g.model,
        g.traces[:1],
        [[3, 9, 30]],
        readout="logit_lens",
        states=g.states[:1],
        draws=20,
    ),
    "answer_belief": lambda g: mi_lens.answer_belief(g.model, g.traces[:1], tokens=3),
    "belief_cost": lambda g: mi_lens.belief_cost(g.model, g.traces[:1]),
    "thought_gains": lambda g: mi_lens.thought_gains(g.model, g.traces[:1]),
    "extract_steering_vectors": steered_by_every_file,
    "train_gate_probe": lambda g: (
        mi_lens.train_gate_probe(g.model, g.traces, HOOK, rule=mi_lens.TopK(4), folds=3).auc
    ),
    "reading_vectors": lambda g: (
        mi_lens.reading_vectors(g.model, g.traces, [HOOK], folds=3)[HOOK].directions
    ),
    "without_content": lambda g: [
        (each.vector.vector, each.removed)
        for each in mi_lens.without_content(g.model, g.vectors(), g.problems, components=2).values()
    ],
    "boundary_stability": lambda g: (
        mi_lens.boundary_stability(g.model, g.traces[:1], samples=2, most=4).rewritten
    ),
    "separability": lambda g: mi_lens.separability(g.model, g.traces, [HOOK], folds=3),
    "train_correctness_probe": trained_probe,
    "budget_curve": lambda g: mi_lens.budget_curve(g.model, g.traces[:2], [20, 60], final_tokens=4),
    "continue_traces": lambda g: [
        trace.text for trace in mi_lens.continue_traces(g.model, g.traces[:1], "Wait", 200)
    ],
    "roll_out": lambda g: mi_lens.roll_out(
        g.model, g.traces[:1], [[5]], samples=2, max_new_tokens=8
    ),
    "resample_thoughts": resampled,
    "true_thinking": lambda g: mi_lens.true_thinking(
        g.model,
        [trace for trace in g.traces if trace.stop_reason == "eos"][:1],
        asking=".\n</think>\n\nThe result is \\boxed{",
    ),
    "evaluate": evaluated,
    "analyze": analyzed,
    "run_sweep": swept,
}
CALLS = ON_NUMBERS | ON_MODELS

# Public names that touch no tensor of a device, by the reason.
WITHOUT = {
    "settings": """
        Action AnalyzeConfig Condition Controls EvaluateConfig GenerateConfig IQR Intervention
        LensTraining Limits MAD PeakRule Request Row Sampling Spec ThoughtRule TopK
        TrainLensConfig dose_conditions parse_intervention register_intervention""",
    "numbers or text that a function has made": """
        Analysis AnswerBelief AnswerLens Belief BoundaryStability BudgetCurve ComesFirst
        Comparison DoseResponse Evaluation GenerationInterrupted Grade Marked MatchedThoughts
        PeakStatistics ResampledThought Settled SettledSummary SteeringVector ThinkingTokens
        Thought TrueThinking TunedLens""",
    "problems and answers": """
        CodeTests Grader Problem answer_parts grade grade_all load_problems overlap run_program""",
    "text and token ids of traces": """
        TokenSet Trace at_answer at_boundary at_fraction at_token classify compare_words
        contrast_outcomes contrast_thoughts contrast_words evasion load_tokenizer load_traces
        matched_controls matched_thoughts matched_tokens save_traces split_text split_thoughts
        text_pieces thought_statistics vote_curve with_condition""",
    "results of other functions, as numbers on the host": """
        add_effects compare compare_peaks correlate_with_trajectory correlates critical_gain
        dose_response
        gains_by_class marks_of mean_gain mean_importance remaining settled settled_summary
        true_thinking_by_class what_comes_first write_report""",
    "files of tables": "read_table write_table",
    "gradients, which the pretended device has not": "steering_attribution train_lens",
    "a mask of the host, made of rows": "positions",
    "called together with what they write or read": """
        load_activations load_gguf load_vectors save_gguf save_vectors""",
}


@dataclass(frozen=True)
class Place:
    """A backend on a device; with `layers`, its first layers, and the others on cuda:1."""

    backend: str
    device: str
    float64: bool = True
    layers: int | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Inside, the device exists, and was not asked yet whether it has float64."""
        with contextlib.ExitStack() as stack:
            stack.callback(float64_device.cache_clear)
            float64_device.cache_clear()
            if self.device != "cpu":
                stack.enter_context(pretend_devices(float64=self.float64))
            yield


CPU = {backend: Place(backend, "cpu") for backend in ("hooked", "bridge")}
PLACES = {
    "hooked on cuda:1": Place("hooked", "cuda:1"),
    "hooked without float64": Place("hooked", "cuda:0", float64=False),
    "bridge on two devices": Place("bridge", "cuda:0", layers=2),
}


@functools.cache
def model_at(place: Place) -> Any:
    with place.open():
        if place.layers is not None:
            return spread(place.layers)
        return mi_lens.load("pocket-reasoner", backend=place.backend, device=place.device)


def spread(layers: int) -> Any:
    """A bridge with its first layers on one device and the others on another.

    `load(n_devices=2)` asks CUDA for the memory of each device, so the layers are placed here.
    """
    accelerate = pytest.importorskip("accelerate")
    folder = CHECKPOINTS["pocket-reasoner"]
    source = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    source.requires_grad_(False).eval()
    first = ["model.embed_tokens", "model.rotary_emb"]
    first += [f"model.layers.{layer}" for layer in range(layers)]
    last = [f"model.layers.{layer}" for layer in range(layers, len(source.model.layers))]
    places = dict.fromkeys(first, "cuda:0") | dict.fromkeys(
        [*last, "model.norm", "lm_head"], "cuda:1"
    )
    source = accelerate.dispatch_model(source, places, force_hooks=True)
    tokenizer = model_at(CPU["bridge"]).tokenizer
    expected = self_check.reference(source)
    model = bridge.build(source, tokenizer)
    model.eos_token_ids = model_at(CPU["bridge"]).eos_token_ids
    model.abilities = self_check.check(bridge, model, expected)
    return model


@functools.cache
def host() -> tuple[list[mi_lens.Trace], list[Tensor], Tensor]:
    """Traces with their states and the first one's answer."""
    model = model_at(CPU["hooked"])
    problems = mi_lens.load_problems("pocket", limit=4)
    traces = mi_lens.generate(model, problems, max_new_tokens=200, progress=False)
    states = [states[LAST] for states in mi_lens.capture(model, traces, [LAST])]
    return traces, states, mi_lens.answer_state(model, problems[0], LAST)[LAST]


def result(name: str, place: Place, folder: Path) -> Any:
    """What the call of this name gives at this place, as numbers and text."""
    model = model_at(place)
    traces, states, answer = host()
    with place.open():
        device = torch.device(place.device)
        there = [state.to(device) for state in states]
        return plain(CALLS[name](Given(model, device, folder, traces, there, answer.to(device))))


@functools.cache
def right(name: str, backend: str) -> Any:
    """The result on the CPU; with numbers alone both backends are the same."""
    with tempfile.TemporaryDirectory() as folder:
        return result(name, CPU[backend], Path(folder))


def plain(value: Any) -> Any:
    """Numbers and text alone."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().double().numpy()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, str) or not isinstance(value, Iterable):
        return value
    return [plain(part) for part in value]


def require_equal(got: Any, wanted: Any, where: str = "") -> None:
    """Equal text and whole numbers, and other numbers up to the rounding of float32."""
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys(), where
        for key in wanted:
            require_equal(got[key], wanted[key], f"{where}.{key}")
    elif isinstance(wanted, list):
        assert len(got) == len(wanted), where
        for index, (one, other) in enumerate(zip(got, wanted, strict=True)):
            require_equal(one, other, f"{where}[{index}]")
    elif isinstance(wanted, float):
        assert got == pytest.approx(wanted, rel=2e-3, abs=2e-4, nan_ok=True), where
    else:
        assert got == wanted, where


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (place, name)
        for place, at in PLACES.items()
        for name in (CALLS if at.backend == "hooked" else ON_MODELS)
    ],
)
def test_a_device_gives_what_the_cpu_gives(place: str, name: str, tmp_path: Path) -> None:
    at = PLACES[place]
    require_equal(result(name, at, tmp_path), right(name, at.backend), name)


def test_every_public_name_is_here():
    without = {name for names in WITHOUT.values() for name in names.split()}
    assert not without & CALLS.keys()
    assert set(mi_lens.__all__) - {"__version__"} == (without | CALLS.keys()) - {"fwd_hooks"}
