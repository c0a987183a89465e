"""Traces for problems under conditions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mi_lens.common.progress import Progress
from mi_lens.generation.engines.protocol import Engine
from mi_lens.generation.plan import Plan
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.protocol import Intervention
from mi_lens.interventions.sampling import Sampling
from mi_lens.models.attached_hooks import FwdHooks
from mi_lens.models.model import Model
from mi_lens.models.one_thread import only_thread
from mi_lens.problems.problem import Problem
from mi_lens.problems.prompts import PromptStyle
from mi_lens.traces.trace import Trace
from mi_lens.traces.trace_files import Traces


class GenerationInterrupted(KeyboardInterrupt):
    """Ctrl-C while generating; the finished traces are in `traces`.

    Attributes:
        traces: By index of the request, the traces that had finished.
    """

    def __init__(self, traces: dict[int, Trace], asked: int):
        super().__init__(f"stopped; {len(traces)} of {asked} traces are in this error's .traces")
        self.traces = traces


def generate(
    model: Model | Engine,
    requests: Iterable[Request | Problem | str],
    condition: Condition | Sequence[Intervention] | Intervention = (),
    *,
    style: PromptStyle = "chat",
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    min_p: float = 0.0,
    seed: int = 0,
    stop: Sequence[str | int] = (),
    fwd_hooks: FwdHooks = (),
    hooks_named: str = "",
    batch_size: int = 16,
    progress: bool = True,
) -> list[Trace]:
    """Generates a trace for every request, in their order.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer. Hooks on it fire. Or an
            engine, from `load_engine`.
        requests: Requests, whose conditions may differ; or problems or bare questions, for which
            the arguments `condition` to `stop` make the request.
        condition: A condition, which then has the sampling settings too; or interventions, which
            act in this order; without interventions, the generation is the baseline.
        style: See `mi_lens.problems.prompts.prompt_text`.
        max_new_tokens: The most tokens to generate for each request.
        temperature: See `Sampling`.
        top_p: See `Sampling`.
        top_k: See `Sampling`.
        min_p: See `Sampling`.
        seed: See `Request`.
        stop: See `Request`.
        fwd_hooks: Your own hooks, as TransformerLens takes them: pairs of a hook name, or of a
            function that picks names, and a hook. They fire in every step, before interventions
            act, and are removed afterwards.
        hooks_named: What you call your hooks, those on the model included, such as
            "zero head 0, v1". It stands in each trace's id and condition. If it is empty,
            "unnamed: " and the hooks stand there.
        batch_size: How many rows are decoded together; changes speed and memory, not tokens. vLLM
            makes its own batches.
        progress: Shows a bar on a terminal's stderr; where stderr is no terminal, writes a line
            now and then.

    Raises:
        ValueError: If there are no requests, an argument is out of range, the model has no
            tokenizer or no token that ends a text (then `stop` must), a prompt leaves no room in
            the model's context, or an intervention does not fit the model or must not be tried on
            a problem; if a hook name does not exist; if `hooks_named` is given without any hook;
            or if a request asks for what the engine does not do, or there are hooks and the engine
            runs none.
        GenerationInterrupted: On Ctrl-C, with the traces that had finished.
        RuntimeError: If another thread runs the model.
    """
    if not isinstance(condition, Condition):
        interventions = condition if isinstance(condition, Sequence) else (condition,)
        sampling = Sampling(temperature, top_p, top_k, min_p)
        condition = Condition(tuple(interventions), sampling)
    elif (temperature, top_p, top_k, min_p) != (0.0, 1.0, None, 0.0):
        raise ValueError("sampling settings are given twice: put them into the condition")
    if isinstance(requests, str | Problem | Request):
        raise ValueError(
            f"requests={requests!r:.80}: a single one; expected a list, such as [{requests!r:.40}]"
        )
    if isinstance(stop, str):
        raise ValueError(f"stop={stop!r}: a text; expected a list of texts, such as [{stop!r}]")
    complete = [
        item
        if isinstance(item, Request)
        else Request(item, condition, style, seed, max_new_tokens, tuple(stop))
        for item in requests
    ]
    traces: dict[int, Trace] = {}
    try:
        with only_thread(model if isinstance(model, Model) else model.model):
            plan = Plan(model, fwd_hooks, hooks_named)
            for finished in stream(plan, complete, batch_size=batch_size, progress=progress):
                traces[finished.index] = finished.trace
    except KeyboardInterrupt:
        raise GenerationInterrupted(traces, len(complete)) from None
    return Traces(traces[index] for index in range(len(complete)))


@dataclass(frozen=True)
class Finished:
    """A generation that has ended.

    Attributes:
        index: The place of its request among all requests.
        trace: What was generated.
        seconds: Its share of the time that its batches took.
    """

    index: int
    trace: Trace
    seconds: float


def stream(
    plan: Plan, requests: Sequence[Request], *, batch_size: int = 16, progress: bool = False
) -> Iterator[Finished]:
    """Yields traces as they finish, for callers that save as they go.

    Args:
        plan: Of the model or engine, made once for all that is asked of it.
        requests: At least one.
        batch_size: See `generate`.
        progress: See `generate`.

    Raises:
        ValueError: For the reasons of `generate`, or if the hooks on the model are not those that
            it had when the plan was made.
        RuntimeError: If another thread runs the model.
    """
    plan.hooks.check()
    if not requests:
        raise ValueError("no problems to generate for; expected at least one")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1")
    jobs = [plan.job(index, request) for index, request in enumerate(requests)]
    with only_thread(plan.model), Progress(len(jobs), "generate", "trace", progress) as done:
        for job in plan.engine.run(jobs, requests, batch_size):
            done.update()
            yield Finished(job.index, plan.trace(job, requests[job.index]), job.seconds)
