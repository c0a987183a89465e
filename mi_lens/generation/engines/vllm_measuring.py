"""Traces read on vLLM, as numbers: its workers keep the states and compute (`vllm_worker`)."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from typing import Any

import torch

from mi_lens.common.provenance import content_hash
from mi_lens.generation.engines.trace_numbers import (
    Compared,
    TraceNumbers,
    joined,
    measurements_of,
)
from mi_lens.generation.engines.vllm_start import watched_layers
from mi_lens.generation.engines.vllm_texts import Text, TextReader
from mi_lens.generation.request import Request
from mi_lens.information.per_trace.measurement import (
    Measurement,
)
from mi_lens.information.per_trace.peak_rules import PAPER_RULE, PeakRule
from mi_lens.information.per_trace.readouts import answer_beginnings, require_token_ids
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.replay import interventions_of
from mi_lens.models.attached_hooks import require_hooks_still_on
from mi_lens.models.hook_names import (
    RESIDUAL,
    HookNames,
    block_output,
    last_block_output,
    match_hook_names,
)
from mi_lens.states import by_hook
from mi_lens.states.answer_state import AnswerTokens
from mi_lens.states.trace_batches import read_ids, require_readable
from mi_lens.traces.trace import Trace


class TraceReader(TextReader):
    """What of `VLLMEngine` reads traces."""

    _staged: bool
    _watched: set[int] | None

    @staticmethod
    def refusal(request: Request) -> str | None:
        """See `Engine.refusal`."""
        raise NotImplementedError

    def measure(
        self,
        traces: Sequence[Trace],
        compared: Sequence[Compared],
        hook_names: HookNames,
        *,
        sigma: float = 50.0,
        rule: PeakRule = PAPER_RULE,
        seed: int = 0,
    ) -> Generator[dict[str, Measurement], None, None]:
        """Measures finished traces at hook names: their trajectories and every control.

        The model reads the traces under their own interventions. The states of as many traces are
        on a device at once as fit into `mi_lens.states.by_hook.HELD` bytes, at least of one trace
        at one hook name; none is copied to this process.

        Args:
            traces: The traces.
            compared: For every trace, the answers that it is measured against.
            hook_names: Hook names or patterns of the residual stream between blocks.
            sigma: See `measure` in `mi_lens.information.per_trace.measurement`.
            rule: See there.
            seed: See there.

        Nothing may be generated on the engine between two results.

        Yields:
            For every trace in order, its measurements by hook name.

        Raises:
            ValueError: If the model cannot read a trace or an answer, a hook name is no residual
                stream, a state is not finite, or the engine's layers lie in several processes.
            RuntimeError: If the engine was closed, or one of vLLM's processes died.
        """
        names, last = self._readable(traces, hook_names), last_block_output(self.model)
        setting = {"sigma": sigma, "rule": repr(rule), "seed": seed}
        texts, parts = [], []
        for trace, answers in zip(traces, compared, strict=True):
            asked = setting | {
                "answer": _name(answers.answer),
                "others": list(map(_name, answers.others)),
                "endings": {ending: _name(of) for ending, of in answers.endings.items()},
            }
            groups = self._groups(trace, list(dict.fromkeys([last, *names])))
            parts.append(len(groups))
            for group in groups:
                wanted: dict[str, Any] = {
                    "measure": asked | {"names": [name for name in group if name in names]}
                }
                if last in group:
                    wanted["next_token"] = [last, _name(answers.after or answers.answer)]
                texts.append(_of_trace(trace, group, wanted))
        every = (answer for answers in compared for answer in answers.all)
        read_at = list(dict.fromkeys([last, *names]))
        with closing(self._numbers_of(texts, every, read_at)) as told:
            for trace, several in zip(traces, parts, strict=True):
                found = [_numbers(trace, next(told)) for _ in range(several)]
                yield measurements_of(found, names)

    def trajectories(
        self,
        traces: Sequence[Trace],
        hook_names: HookNames,
        answers: Sequence[Sequence[AnswerTokens]] | None = None,
        *,
        token_ids: Sequence[Sequence[int]] | None = None,
        **settings: Any,
    ) -> list[TraceNumbers]:
        """MI of finished traces with several answers, and the logit lens of chosen tokens.

        Memory is as in `measure`.

        Args:
            traces: The traces, which are read under their own interventions.
            hook_names: Hook names or patterns of the residual stream between blocks.
            answers: For every trace, the answers that it is compared with (`answer_tokens`); None
                computes no MI.
            token_ids: For every trace, the tokens whose probabilities are added up. None takes
                those that its gold answer may begin with (`answer_probability`).
            settings: `sigma`, `eps` and `estimator`, as in `hsic_mi`.

        Raises:
            ValueError, RuntimeError: As in `measure`.
        """
        names = self._readable(traces, hook_names)
        if token_ids is None:
            token_ids = [answer_beginnings(self.model, trace) for trace in traces]
        texts, parts = [], []
        for trace, against, tokens in zip(
            traces, answers or [[] for _ in traces], token_ids, strict=True
        ):
            require_token_ids(self.model, tokens)
            wanted: dict[str, Any] = {"token_ids": list(tokens)}
            if against:
                wanted["mi"] = {"answers": list(map(_name, against)), "settings": settings}
            groups = self._groups(trace, names)
            parts.append(len(groups))
            texts += [_of_trace(trace, group, wanted) for group in groups]
        every = (answer for against in answers or () for answer in against)
        with closing(self._numbers_of(texts, every, names)) as told:
            results = []
            for trace, several in zip(traces, parts, strict=True):
                found = [_numbers(trace, next(told)) for _ in range(several)]
                results.append(TraceNumbers(joined(found, "mi"), joined(found, "probability")))
            return results

    def require_hook_names(self, hook_names: HookNames) -> list[str]:
        """The hook names that match patterns, if states there can be measured.

        Raises:
            ValueError: If none matches, one is no residual stream between blocks, or the engine's
                blocks lie in several processes.
        """
        names = match_hook_names(self.model, hook_names)
        if strange := [name for name in names if not RESIDUAL.fullmatch(name)]:
            raise ValueError(
                f"hook name {strange[0]!r}: on vLLM only the residual stream between blocks is "
                "read; expected hook_resid_post or hook_resid_pre of a block, or another reader"
            )
        if self._staged:
            raise ValueError(
                "with pipeline_parallel_size above 1 the blocks lie in several processes, of which "
                "none can measure all; use tensor_parallel_size"
            )
        self._require_watched([*names, last_block_output(self.model)], "states are wanted")
        return names

    def _require_watched(self, names: Sequence[str], what: str) -> None:
        watched = self._watched
        if watched is not None and (beyond := set(watched_layers(names)) - watched):
            raise ValueError(
                f"{what} at blocks {sorted(beyond)}, and the model was compiled for "
                f"{sorted(watched)}; name their outputs in compiled=, with the last block's, whose "
                "states tell what the model expects next; or leave compiled out"
            )

    def _readable(self, traces: Sequence[Trace], hook_names: HookNames) -> list[str]:
        """The hook names, if the traces can be read there."""
        names = self.require_hook_names(hook_names)
        require_readable(self.model, traces, names)
        for trace in traces:
            self._require_replayable(trace)
        require_hooks_still_on(self.model, [trace.condition.get("hooks", "") for trace in traces])
        return names

    def _require_replayable(self, trace: Trace) -> None:
        interventions = tuple(interventions_of(trace))
        if refused := self.refusal(Request("a question", Condition(interventions))):
            raise ValueError(
                f"trace {trace.id} was written under {refused}; read it with mi_lens.capture"
            )
        for intervention in interventions:
            action = intervention.bind(self.model)
            again = [block_output(layer) for layer in action.recycled_blocks]
            self._require_watched([*action.hook_names, *again], f"trace {trace.id} was changed")

    def _groups(self, trace: Trace, names: Sequence[str]) -> list[list[str]]:
        """Hook names that are read together, in one reading of the trace."""
        width: int = self.model.cfg.d_model
        size = len(trace) * getattr(torch, self.dtype).itemsize
        return by_hook.passes(dict.fromkeys(names, width), size)

    def _numbers_of(
        self, texts: Sequence[Text], answers: Iterable[AnswerTokens], names: Sequence[str]
    ) -> Generator[Any, None, None]:
        """What workers compute of texts, in order; the answers are read before, at hook names."""
        distinct = {_name(answer): answer for answer in answers}
        reading = [
            Text(answer.ids, list(names), len(answer.ids) - answer.read, [name, answer.mean])
            for name, answer in distinct.items()
        ]
        try:
            with closing(self._read("mi_lens_keep_answers", reading)) as failures:
                for failure in failures:
                    if failure is not None:
                        raise ValueError(f"an answer state: {failure}")
            yield from self._read("mi_lens_numbers", texts)
        finally:
            if self._llm is not None:
                self._ask("mi_lens_forget_answers", list(distinct))


def _of_trace(trace: Trace, names: list[str], wanted: dict[str, Any]) -> Text:
    condition = Condition(tuple(interventions_of(trace)))
    first = len(trace.prompt_ids) - 1
    return Text(read_ids(trace), names, first, [wanted], trace, condition)


def _name(answer: AnswerTokens) -> str:
    """What the workers know an answer by."""
    return content_hash([answer.ids, answer.read, answer.mean])


def _numbers(trace: Trace, told: Any) -> dict[str, Any]:
    if isinstance(told, str):
        raise ValueError(f"trace {trace.id}: {told}")
    return told
