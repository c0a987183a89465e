"""Requests made ready for one engine: prompts, bound interventions, ids."""

from dataclasses import asdict
from typing import Any

from mi_lens import __version__
from mi_lens.common.provenance import DECODING, code_hash, content_hash
from mi_lens.generation.engines.lookup import engine_and_hooks
from mi_lens.generation.engines.protocol import Engine
from mi_lens.generation.jobs import Job
from mi_lens.generation.request import Request, end_of_text_ids, require_room
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.protocol import Action, Intervention
from mi_lens.interventions.row import Row
from mi_lens.models.attached_hooks import FwdHooks
from mi_lens.models.hook_names import resolve_hook_names
from mi_lens.models.model import Model
from mi_lens.problems.problem import Problem
from mi_lens.problems.prompts import PromptStyle, encode_prompt, require_tokenizer
from mi_lens.traces.think_block import written_text
from mi_lens.traces.trace import ConditionRecord, Trace


class Plan:
    """Requests made ready for one engine: prompts encoded, interventions bound, ids made.

    A run makes one and hands it down: the fingerprint reads the whole model.

    Args:
        model: A HookedTransformer or TransformerBridge with its tokenizer. Hooks on it fire; they
            must stay as they are while the plan is used. Or an engine, from `load_engine`.
        fwd_hooks: See `generate`.
        hooks_named: See `generate`.

    Attributes:
        engine: What runs the requests.
        model: The model that requests are made ready for (`Engine.model`).
        fingerprint: The fingerprint of what the engine runs.
        hooks: The user's hooks.

    Raises:
        ValueError: If the model has no tokenizer, or failed its check at generating when it was
            loaded; if the hooks do not fit; see `UserHooks`; or if there are hooks and the engine
            runs none.
    """

    def __init__(self, model: Model | Engine, fwd_hooks: FwdHooks = (), hooks_named: str = ""):
        self.engine, self.hooks = engine_and_hooks(model, fwd_hooks, hooks_named)
        self.model = self.engine.model
        require_tokenizer(self.model.tokenizer)
        self.fingerprint = self.engine.fingerprint
        self._actions: dict[int, tuple[Intervention, Action]] = {}
        self._described: dict[int, tuple[Condition, dict[str, Any]]] = {}
        self._problems: dict[int, tuple[Problem, str]] = {}
        self._prompts: dict[tuple[str, PromptStyle], tuple[str, tuple[int, ...]]] = {}

    def job(self, index: int, request: Request) -> Job:
        """A request ready to decode.

        Raises:
            ValueError: See `generate`.
        """
        if refused := self.engine.refusal(request):
            raise ValueError(
                f"request {index} asks for {refused}; the engine {self.engine.name} does not do "
                "this: leave it out, or use engine 'transformer_lens'"
            )
        prompt_ids = self.prompt(request)[1]
        context, d_vocab = self.model.cfg.n_ctx, self.model.cfg.d_vocab
        if strange := [token for token in request.prefix if not 0 <= token < d_vocab]:
            raise ValueError(
                f"request {index}: its prefix holds token id {strange[0]}; this model has ids from "
                f"0 to {d_vocab - 1}"
            )
        if not request.stop and not end_of_text_ids(self.model):
            raise ValueError(
                f"request {index}: no token ends a text of this model (neither its tokenizer nor "
                "its generation_config.json has an eos_token), so that every text would be cut off "
                "at max_new_tokens; give stop=, or set model.eos_token_ids"
            )
        length = len(prompt_ids) + len(request.prefix)
        require_room(f"request {index}", request.question, length, context)
        for intervention in request.condition.interventions:
            if isinstance(request.problem, Problem):
                intervention.check(request.problem)
        row = Row(
            self.model.tokenizer,
            prompt_ids,
            request.seed,
            request.max_new_tokens,
            list(request.prefix),
        )
        actions = tuple(map(self._action, request.condition.interventions))
        if sum(action.gates_sampling for action in actions) > 1:
            raise ValueError(
                f"request {index}: two gates on entropy or on a probe decide how its tokens are "
                "drawn; expected one in a condition"
            )
        return Job(index, row, request.condition.sampling, actions, request.stop, context)

    def prompt(self, request: Request) -> tuple[str, tuple[int, ...]]:
        """A request's prompt as text and as token ids."""
        key = request.question, request.style
        if key not in self._prompts:
            self._prompts[key] = encode_prompt(self.model.tokenizer, *key)
        return self._prompts[key]

    def trace_id(self, request: Request) -> str:
        """The id of the trace that a request gives: a hash of all that decides its tokens.

        The hash covers the problem too, so that what is graded or measured against one gold answer
        is never taken for a result of another.
        """
        described = self.describe(request.condition)
        what = [
            __version__,
            code_hash(*DECODING),
            self.fingerprint,
            self.prompt(request)[1],
            self._problem(request.problem),
            {key: described[key] for key in ("sampling", "interventions")},
            request.seed,
            request.max_new_tokens,
            request.stop,
            request.prefix,
        ]
        if self.hooks.record:
            what.append(self.hooks.record)
        if not self.engine.own:
            what.append({"engine": self.engine.name})
        return content_hash(what)

    def _problem(self, problem: Problem | str) -> str:
        if isinstance(problem, str):
            return ""
        if id(problem) not in self._problems:
            self._problems[id(problem)] = problem, content_hash(asdict(problem))
        return self._problems[id(problem)][1]

    def trace(self, job: Job, request: Request) -> Trace:
        """The trace of a job that has ended."""
        assert job.stop_reason is not None
        row = job.row
        condition = ConditionRecord(
            **self.describe(request.condition),
            max_new_tokens=request.max_new_tokens,
            style=request.style,
            stop=list(request.stop),
            prefix=len(request.prefix),
        )
        if self.hooks.record:
            condition["hooks"] = self.hooks.record
        if not self.engine.own:
            condition["engine"] = self.engine.name
        return Trace(
            id=self.trace_id(request),
            model=self.fingerprint,
            prompt=self.prompt(request)[0],
            prompt_ids=row.prompt_ids,
            token_ids=tuple(row.token_ids),
            text=written_text(row.tokenizer, row.token_ids),
            stop_reason=job.stop_reason,
            seed=row.seed,
            condition=condition,
            problem=request.problem if isinstance(request.problem, Problem) else None,
            events=tuple(row.events),
            interventions=request.condition.interventions,
        )

    def _action(self, intervention: Intervention) -> Action:
        if id(intervention) not in self._actions:
            action = intervention.bind(self.model)
            resolve_hook_names(self.model, action.hook_names)
            if self.engine.own:  # Vectors name their model by a fingerprint of TransformerLens's.
                intervention.check_model(self.fingerprint)
            self._actions[id(intervention)] = intervention, action
        return self._actions[id(intervention)][1]

    def describe(self, condition: Condition) -> dict[str, Any]:
        """A condition as JSON, in which a hash replaces every long list of numbers."""
        if id(condition) not in self._described:
            self._described[id(condition)] = condition, condition.describe()
        return self._described[id(condition)][1]
