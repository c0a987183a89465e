"""The decode loop: batched, left-padded, cached; a row's tokens depend on that row alone.

Hooks attached to the model (`with model.hooks(...)`) fire at every step. What this does not cover
yet: interventions, and filling the places of finished rows with waiting requests.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from mi_lens import __version__
from mi_lens.backends import backend_of
from mi_lens.fingerprint import model_fingerprint
from mi_lens.problems import Problem
from mi_lens.prompts import PromptStyle, encode, prompt_text
from mi_lens.traces import StopReason, Trace, content_hash


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from next-token probabilities.

    Attributes:
        temperature: 0 takes the likeliest token (greedy); else logits are divided by it.
        top_p: Keeps the fewest likeliest tokens whose probability reaches this.
        top_k: Keeps this many likeliest tokens; None keeps all.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}: expected 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: expected a probability above 0, at most 1")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: expected at least 1 token, or None for all")


@dataclass(frozen=True)
class Request:
    """One generation asked for.

    Attributes:
        problem: A problem, or a bare question.
        style: How the question becomes a prompt.
        sampling: How tokens are chosen.
        seed: Of the sampling. Equal requests with equal seeds give equal tokens.
        max_new_tokens: Budget.
    """

    problem: Problem | str
    style: PromptStyle = "chat"
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    max_new_tokens: int = 512

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens}: expected at least 1")


def generate(
    model,
    requests: Iterable[Request | Problem | str],
    *,
    style: PromptStyle = "chat",
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = True,
) -> list[Trace]:
    """Generates a trace for every request, in their order.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer. Hooks on it fire.
        requests: Requests; or problems or bare questions, for which the arguments `style` to
            `seed` make the request.
        style: See `mi_lens.prompts.prompt_text`.
        max_new_tokens: Budget of each.
        temperature: See `Sampling`.
        top_p: See `Sampling`.
        top_k: See `Sampling`.
        seed: See `Request`.
        batch_size: Rows decoded together; changes speed and memory, not tokens.
        progress: Shows a bar on a terminal's stderr.

    Raises:
        ValueError: If there are no requests, an argument is out of range, the model has no
            tokenizer, or a prompt leaves no room in the model's context.
    """
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k)
    full = [
        item if isinstance(item, Request) else Request(item, style, sampling, seed, max_new_tokens)
        for item in requests
    ]
    traces = dict(stream(model, full, batch_size=batch_size, progress=progress))
    return [traces[index] for index in range(len(full))]


def stream(
    model, requests: Sequence[Request], *, batch_size: int = 16, progress: bool = False
) -> Iterator[tuple[int, Trace]]:
    """Yields (index of the request, trace) as each finishes, for callers that save as they go."""
    if not requests:
        raise ValueError("no problems to generate for; expected at least one")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1")
    if model.tokenizer is None:
        raise ValueError("the model has no tokenizer; load it with mi_lens.load")
    name = model_fingerprint(model)
    rows = [_Row.of(model, name, index, request) for index, request in enumerate(requests)]
    with tqdm(
        total=len(rows), desc="generate", unit="trace", disable=None if progress else True
    ) as bar:
        for start in range(0, len(rows), batch_size):
            for row in _decode(model, rows[start : start + batch_size]):
                bar.update()
                yield row.index, row.trace(model.tokenizer)


def request_id(model, model_name: str, request: Request) -> str:
    """The id of the trace that a request gives: a hash of all that decides its tokens."""
    return _Row.of(model, model_name, 0, request).trace_id


@dataclass
class _Row:
    """A request under way."""

    index: int
    request: Request
    model_name: str
    prompt: str
    prompt_ids: tuple[int, ...]
    context: int
    token_ids: list[int] = field(default_factory=list)
    stop_reason: StopReason | None = None

    @classmethod
    def of(cls, model, model_name: str, index: int, request: Request) -> "_Row":
        problem = request.problem
        question = problem if isinstance(problem, str) else problem.question
        prompt = prompt_text(model.tokenizer, question, request.style)
        ids = encode(model.tokenizer, prompt, templated=request.style != "raw")
        context = model.cfg.n_ctx
        if len(ids) >= context:
            raise ValueError(
                f"request {index} ({prompt[:40]!r}...): its prompt has {len(ids)} tokens and the "
                f"model's context {context}; shorten the prompt or leave the problem out"
            )
        return cls(index, request, model_name, prompt, tuple(ids), context)

    @property
    def trace_id(self) -> str:
        request = self.request
        what = [
            __version__,
            self.model_name,
            self.prompt_ids,
            asdict(request.sampling),
            request.seed,
            request.max_new_tokens,
        ]
        return content_hash(what)

    def accept(self, token: int, eos_ids: set[int]) -> None:
        self.token_ids.append(token)
        if token in eos_ids:
            self.stop_reason = "eos"
        elif len(self.token_ids) >= self.request.max_new_tokens:
            self.stop_reason = "length"
        elif len(self.prompt_ids) + len(self.token_ids) >= self.context:
            self.stop_reason = "context"

    def trace(self, tokenizer) -> Trace:
        assert self.stop_reason is not None
        request = self.request
        return Trace(
            id=self.trace_id,
            model=self.model_name,
            prompt=self.prompt,
            prompt_ids=self.prompt_ids,
            token_ids=tuple(self.token_ids),
            text=tokenizer.decode(self.token_ids, skip_special_tokens=True),
            stop_reason=self.stop_reason,
            seed=request.seed,
            condition={
                **asdict(request.sampling),
                "max_new_tokens": request.max_new_tokens,
                "style": request.style,
            },
            problem=request.problem if isinstance(request.problem, Problem) else None,
        )


@torch.inference_mode()
def _decode(model, rows: list[_Row]) -> Iterator[_Row]:
    """Decodes a batch and yields its rows as they finish."""
    backend = backend_of(model)
    eos_ids = end_of_text_ids(model)
    tokens, mask = left_pad([row.prompt_ids for row in rows], device=model.cfg.device)
    cache = backend.new_cache(model, len(rows))
    while rows:
        logits = backend.step(model, tokens, mask, cache, logits_to_keep=1)[:, -1]
        for row, row_logits in zip(rows, logits, strict=True):
            row.accept(
                choose_token(row_logits, row.request, row.prompt_ids, len(row.token_ids)), eos_ids
            )
        going = [i for i, row in enumerate(rows) if row.stop_reason is None]
        yield from (row for row in rows if row.stop_reason is not None)
        if not going:
            return
        if len(going) < len(rows):
            rows = [rows[i] for i in going]
            mask = mask[going]
            backend.keep_rows(cache, torch.tensor(going, device=mask.device))
        tokens = torch.tensor([[row.token_ids[-1]] for row in rows], device=mask.device)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)


def left_pad(
    sequences: Sequence[Sequence[int]], device=None
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Token ids padded on the left, and the mask that is 1 at real tokens.

    The pad token is 0, whatever the tokenizer's: masked positions are never read.
    """
    width = max(map(len, sequences))
    tokens = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    for row, ids in enumerate(sequences):
        tokens[row, width - len(ids) :] = torch.tensor(ids)
        mask[row, width - len(ids) :] = 1
    return tokens.to(device), mask.to(device)


def end_of_text_ids(model) -> set[int]:
    """The tokens that end a generation: the tokenizer's, and the checkpoint's where it has more."""
    ends = {model.tokenizer.eos_token_id, *getattr(model, "eos_token_ids", ())}
    return ends - {None}


def choose_token(
    logits: Float[Tensor, "d_vocab"], request: Request, prompt_ids: Sequence[int], step: int
) -> int:
    """The next token of a request, a function of its logits, prompt, seed and step alone."""
    sampling = request.sampling
    if not torch.isfinite(logits.max()):
        raise ValueError(
            f"the logits at step {step} hold {logits.max().item()}; check hooks and dtype"
        )
    if sampling.temperature == 0:
        return int(logits.argmax())
    # Shifted by the maximum before division: a tiny temperature must not overflow.
    scaled = (logits.double() - logits.max().double()) / sampling.temperature
    probabilities, order = scaled.softmax(-1).sort(descending=True, stable=True)
    keep = torch.ones_like(order, dtype=torch.bool)
    # A token stays if the ones before it have not yet reached top_p; the first always does.
    keep[1:] = probabilities.cumsum(-1)[:-1] < sampling.top_p
    if sampling.top_k is not None:
        keep[sampling.top_k :] = False
    cumulative = (probabilities * keep).cumsum(-1)
    target = uniform(request.seed, prompt_ids, step) * cumulative[-1]
    index = int(torch.searchsorted(cumulative, target, right=True))
    return int(order[min(index, int(keep.sum()) - 1)])


def uniform(seed: int, prompt_ids: Sequence[int], step: int) -> float:
    """A number in [0, 1) from a counter-based generator: keyed by request, counted by step.

    The prompt is part of the key, so that problems sampled with one seed are independent.
    """
    key = int(content_hash([seed, list(prompt_ids)]), 16)
    return float(np.random.Generator(np.random.Philox(key=key, counter=step)).random())
