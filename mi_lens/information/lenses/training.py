"""Trains a tuned lens: draws what each translator reads to the model's final distribution.

The loss of a translator is KL(final || lens), the mean over steps. Adam follows its gradient. The
released code of Belrose et al. takes SGD with Nesterov's momentum, whose steps grow with the
states. Here a step is a share of the states' root mean square, so that one rate serves layers and
models of any scale.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_lens.common.progress import Progress
from mi_lens.common.provenance import content_hash
from mi_lens.common.records import DamagedError, set_aside
from mi_lens.common.tensor_file import read_tensors, write_tensors
from mi_lens.information.lenses.divergence import divergence, steps_at_once
from mi_lens.information.lenses.settings import LensTraining
from mi_lens.information.lenses.tuned_lens import TunedLens, identity_lens
from mi_lens.models.backends.lookup import backend_of
from mi_lens.models.fingerprint import model_fingerprint
from mi_lens.models.model import Model
from mi_lens.states.capture import capture
from mi_lens.states.trace_batches import require_readable
from mi_lens.traces.trace import Trace

SAVED_EVERY = 60.0  # Seconds between two saved states of a training run.


def train_lens(
    model: Model,
    traces: Sequence[Trace],
    training: LensTraining | None = None,
    *,
    hook_names: str | Sequence[str] | None = None,
    fingerprint: str | None = None,
    saved: str | Path | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> TunedLens:
    """Trains a tuned lens on the states of traces; see `TunedLens`.

    The states are those of the traces' generated steps, read as they were written. Every update
    reads its traces anew, so memory holds the states of one update. The result depends on the
    model, the traces and the settings alone, whether or not the training was interrupted.

    Args:
        model: A HookedTransformer or TransformerBridge.
        traces: Traces to train on, each with its problem. Keep other problems to read with the
            lens.
        training: The settings; None takes the defaults.
        hook_names: Where to translate states, as hook names or patterns; None takes every block's
            output but the last one's.
        fingerprint: The model's fingerprint; None computes it.
        saved: A file that keeps the state of the training, so that the same call continues after a
            kill. None keeps none.
        batch_size: Number of traces that the model reads together. It changes speed and memory.
        progress: Whether to show the progress on stderr (`mi_lens.generate`).

    Raises:
        ValueError: As `capture`; if a trace has no problem; if `saved` holds another training; or
            if the loss is not finite.
    """
    training = training or LensTraining()
    lens = identity_lens(model, fingerprint or model_fingerprint(model), hook_names)
    require_readable(model, traces, lens.hook_names)
    problems = [trace.require_problem("by which the lens names what it saw") for trace in traces]
    path = None if saved is None else Path(saved)
    run = _run_hash(lens, traces, training)
    fit = _Fit(model, lens, training)
    done = 0 if path is None else fit.load(path, run)
    last_saved = monotonic()
    with Progress(training.updates, "train the lens", "update", progress, done) as bar:
        for update in range(done, training.updates):
            fit.learn(_states(model, fit.wanted, traces, training, update, batch_size), update)
            bar.update()
            if path is not None and monotonic() - last_saved >= SAVED_EVERY:
                fit.save(path, run, update + 1)
                last_saved = monotonic()
    return replace(
        lens,
        weight=fit.weight.detach().cpu(),
        bias=(fit.shift * fit.scale[:, None]).detach().cpu(),
        problems={problem.key: problem.id for problem in problems},
        settings=asdict(training),
    )


def _run_hash(lens: TunedLens, traces: Sequence[Trace], training: LensTraining) -> str:
    """Everything that decides what comes out of a training."""
    tokens = [[trace.id, trace.prompt_ids, trace.token_ids] for trace in traces]
    return content_hash([lens.model, lens.hook_names, asdict(training), tokens])


def chosen(training: LensTraining, lengths: Sequence[int], update: int) -> dict[int, list[int]]:
    """The traces and steps that an update learns from: trace to its steps, in order.

    Every trace comes once before any comes again. Steps are drawn without replacement.

    Args:
        training: The settings.
        lengths: The number of steps of every trace.
        update: Number of the update, from 0.
    """
    count = min(training.traces_per_update, len(lengths))
    turns = [divmod(update * count + i, len(lengths)) for i in range(count)]
    orders = {
        epoch: np.random.default_rng([training.seed, 0, epoch]).permutation(len(lengths))
        for epoch in {epoch for epoch, _ in turns}
    }
    steps = [
        (int(trace), step)
        for trace in dict.fromkeys(orders[epoch][place] for epoch, place in turns)
        for step in range(lengths[trace])
    ]
    if len(steps) > training.steps_per_update:
        rng = np.random.default_rng([training.seed, 1, update])
        drawn = rng.choice(len(steps), training.steps_per_update, replace=False)
        steps = [steps[i] for i in sorted(drawn.tolist())]
    found: dict[int, list[int]] = {}
    for trace, step in steps:
        found.setdefault(trace, []).append(step)
    return found


def _states(
    model: Model,
    names: Sequence[str],
    traces: Sequence[Trace],
    training: LensTraining,
    update: int,
    batch_size: int,
) -> dict[str, Float[Tensor, "step d"]]:
    """The states that an update learns from, of all its traces, by hook name."""
    places = chosen(training, [len(trace) for trace in traces], update)
    read = capture(
        model,
        [traces[place] for place in places],
        list(names),
        steps=list(places.values()),
        batch_size=batch_size,
    )
    return {name: torch.cat([of_trace[name] for of_trace in read]) for name in names}


class _Fit:
    """Translators under training, on the model's device.

    The bias of a hook name is `shift` times `scale`, the root mean square of the states there, so
    that Adam's rate means the same for both parts of a translator and at every hook name.
    """

    def __init__(self, model: Model, lens: TunedLens, training: LensTraining):
        device = torch.device(model.cfg.device)
        self.names, self.final, self.training = lens.hook_names, lens.final, training
        self.wanted = (*lens.hook_names, lens.final)
        with torch.inference_mode(False):
            self.weight = lens.weight.to(device, copy=True).requires_grad_()
            self.shift = lens.bias.to(device, copy=True).requires_grad_()
        self.scale = torch.ones(len(self.names), dtype=self.weight.dtype, device=device)
        self.optimizer = torch.optim.Adam(
            [{"params": [each]} for each in (self.weight, self.shift)]
        )
        self.size = steps_at_once(model)
        self.unembed = partial(backend_of(model).unembed, model)

    def learn(self, states: dict[str, Float[Tensor, "step d"]], update: int) -> None:
        """One update from these states."""
        if update == 0:
            square = [states[name].to(self.scale).square().mean() for name in self.names]
            root = torch.stack(square).sqrt()
            self.scale = torch.where(root > 0, root, 1.0)
        losses = self._add_gradients(states)
        if not losses.isfinite().all():
            bad = self.names[int((~losses.isfinite()).nonzero()[0])]
            raise ValueError(
                f"update {update}: the divergence at {bad} is not finite; lower learning_rate, now "
                f"{self.training.learning_rate}"
            )
        rate = self.training.learning_rate * (1 - update / self.training.updates)
        width = self.weight.shape[-1]
        for group, share in zip(self.optimizer.param_groups, (1 / width, 1.0), strict=True):
            group["lr"] = rate * share
        self.optimizer.step()

    @torch.enable_grad()
    def _add_gradients(self, states: dict[str, Float[Tensor, "step d"]]) -> Float[Tensor, " hook"]:
        """Sets the gradients of the mean divergence over the states, and returns that divergence.

        Logits are those of one chunk of steps at one hook name at a time.
        """
        steps = len(states[self.final])
        self.weight.grad, self.shift.grad = map(torch.zeros_like, (self.weight, self.shift))
        losses = torch.zeros_like(self.scale)
        for start in range(0, steps, self.size):
            part = slice(start, start + self.size)
            with torch.no_grad():
                log_final = self._log_probabilities(states[self.final][part])
            for place, name in enumerate(self.names):
                weight, shift = (
                    each[place].detach().requires_grad_() for each in (self.weight, self.shift)
                )
                plain = states[name][part].to(self.weight)
                read = plain + plain @ weight.T + self.scale[place] * shift
                log_lens = self._log_probabilities(read)
                loss = divergence(log_final, log_lens).sum() / steps
                gradients = torch.autograd.grad(loss, (weight, shift))
                for whole, gradient in zip((self.weight, self.shift), gradients, strict=True):
                    assert whole.grad is not None
                    whole.grad[place] += gradient
                losses[place] += loss.detach().to(losses)
        return losses

    def _log_probabilities(self, states: Float[Tensor, "step d"]) -> Float[Tensor, "step vocab"]:
        return self.unembed(states).to(self.weight.dtype).log_softmax(-1)

    def save(self, path: Path, run: str, done: int) -> None:
        """Writes all that another process needs to continue after `done` updates."""
        tensors = {"weight": self.weight, "shift": self.shift, "scale": self.scale}
        for number, entries in self.optimizer.state_dict()["state"].items():
            tensors |= {f"{number}.{name}": value for name, value in entries.items()}
        write_tensors(path, tensors, {"kind": "lens training", "run": run, "updates": done})

    def load(self, path: Path, run: str) -> int:
        """Takes over a saved state and returns how many updates are done; 0 if there is none.

        Raises:
            ValueError: If it is the state of another training.
        """
        if not path.exists():
            return 0
        try:
            tensors, about = read_tensors(path)
        except DamagedError as error:
            set_aside(path, str(error))
            return 0
        if about.get("run") != run:
            raise ValueError(
                f"{path}: the state of another training: of other traces, another model or other "
                "settings; give another file, or remove this one"
            )
        with torch.no_grad():
            self.weight.copy_(tensors["weight"])
            self.shift.copy_(tensors["shift"])
        self.scale = tensors["scale"].to(self.scale)
        state = self.optimizer.state_dict()
        for key in tensors.keys() - {"weight", "shift", "scale"}:
            number, name = key.split(".")
            state["state"].setdefault(int(number), {})[name] = tensors[key]
        self.optimizer.load_state_dict(state)
        return int(about["updates"])
