"""AlphaOne's schedule, by hand: every step is a forward pass over the whole sequence."""

import pytest
import torch

from mi_lens.generation.generate import generate
from mi_lens.generation.request import Request
from mi_lens.interventions.condition import Condition
from mi_lens.interventions.sampling import uniform_key, uniforms
from mi_lens.interventions.schedule import Schedule
from mi_lens.interventions.suppress import LogitPenalty

STEPS = 40


def by_hand(model, prompt_ids, seed, settings, bonus, ending):
    """The tokens under the schedule, and where it acted; `bonus` is added to the logits."""
    encode, decode = model.tokenizer.encode, model.tokenizer.decode
    (word,), closing = encode(settings.words[0]), encode(ending)
    words = {token for token in range(384) if decode([token]).strip().lower() == "so"}
    key = uniform_key(seed, prompt_ids, "schedule")
    ids, acts, forced, thinking = [], [], [], True
    while len(ids) < STEPS:
        step = len(ids)
        if forced:
            ids.append(forced.pop(0))
            continue
        logits = model(torch.tensor([[*prompt_ids, *ids]]))[0, -1] + bonus
        token = int(logits.argmax())
        if "</think>" in decode(ids):
            thinking = False
        chance = settings.start * (1 - step / settings.alpha_moment)
        if thinking and step >= settings.alpha_moment and token in words:
            acts.append((step, "end thinking", token))
            token, *forced = closing
        elif (
            thinking
            and 0 < step < settings.alpha_moment
            and "\n\n" in decode(ids[-1:])
            and float(uniforms(key, step, 1)[0]) < chance
        ):
            acts.append((step, "raise", token))
            token = word
        ids.append(token)
    return ids, acts


@pytest.mark.parametrize("ending", [None, "So it\n</think>"])
def test_words_are_raised_then_end_the_thinking(tiny_model, ending):
    encode = tiny_model.tokenizer.encode
    (blank,), (so,) = encode("\n\n"), encode("So")
    liked = {blank: 6.0, so: 5.0}
    bonus = torch.zeros(tiny_model.cfg.d_vocab)
    for token, much in liked.items():
        bonus[token] = much
    parts = [LogitPenalty([token], much) for token, much in liked.items()]
    settings = Schedule(12, ["So"], 0.7, ending)
    requests = [
        Request("What is 12 * 7?", Condition((*parts, settings)), seed=seed, max_new_tokens=STEPS)
        for seed in range(4)
    ]
    requests.append(Request("What is 12 * 7?", Condition(tuple(parts)), max_new_tokens=STEPS))
    traces = generate(tiny_model, requests, batch_size=3, progress=False)
    seen = set()
    for seed, trace in enumerate(traces[:4]):
        ids, acts = by_hand(
            tiny_model, trace.prompt_ids, seed, settings, bonus, ending or "</think>"
        )
        assert list(trace.token_ids) == ids[: len(trace)]
        told = [event for event in trace.events if event["what"] != "logits"]
        assert [(e["step"], e["what"], e["wanted"]) for e in told] == acts
        seen |= {what for _, what, _ in acts}
    assert seen == {"raise", "end thinking"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha_moment": 0}, "alpha_moment=0"),
        ({"alpha_moment": 9, "start": 0.0}, "start=0.0"),
        ({"alpha_moment": 9, "words": [5, "Wait"]}, "the first is written"),
        ({"alpha_moment": 9, "ending": ""}, "ending=''"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**settings)
