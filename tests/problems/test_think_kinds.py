import copy

import pytest

from mi_lens.problems.answers import boxed_answer, closing_number, code_block, stated_answer
from mi_lens.problems.grading.grader import grade
from mi_lens.problems.problem import Problem
from mi_lens.problems.think_kinds import (
    THINK_KINDS,
    kind_of_text,
    set_kind,
    split_reply,
    think_kind,
    use_think_kind,
)
from tests.think_blocks import FAMILIES, PLAIN, REPLY, new_tokenizer, tokenizer_of
from tests.traces.conftest import bare

families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@families
def test_the_kind_is_found(family):
    assert think_kind(tokenizer_of(family)) is THINK_KINDS[family.kind]
    assert set_kind(tokenizer_of(family)) is None


def test_the_vocabulary_counts_before_the_template():
    tokenizer = new_tokenizer(FAMILIES["gpt-oss"])
    tokenizer.chat_template = "<think>"
    assert think_kind(tokenizer).name == "gpt-oss"
    bare_template = copy.deepcopy(tokenizer_of(PLAIN))
    assert think_kind(bare_template).name == "think"
    bare_template.chat_template += "<|begin_of_thought|>"
    assert think_kind(bare_template).name == "open-thoughts"
    bare_template.chat_template = None
    assert think_kind(bare_template).name == "think"


def test_another_kind_is_set_and_taken_back():
    tokenizer = new_tokenizer(FAMILIES["r1"])
    use_think_kind(tokenizer, "none")
    assert think_kind(tokenizer) is THINK_KINDS["none"]
    assert set_kind(tokenizer) == "none"
    assert think_kind(copy.deepcopy(tokenizer)).name == "none"
    use_think_kind(tokenizer, "open-thoughts")  # it has every byte, and so writes any text
    assert think_kind(tokenizer).name == "open-thoughts"
    use_think_kind(tokenizer, "think")
    assert set_kind(tokenizer) is None
    use_think_kind(tokenizer, "auto")
    assert think_kind(tokenizer).name == "think"


def test_kinds_that_do_not_fit_are_refused():
    tokenizer = new_tokenizer(FAMILIES["r1"])
    with pytest.raises(ValueError, match=r"think='thinks': expected 'auto' or one of .*'none'\]"):
        use_think_kind(tokenizer, "thinks")
    for kind, mark in (("gpt-oss", r"'<\|channel\|>'"), ("magistral", r"'\[THINK\]'")):
        with pytest.raises(ValueError, match=rf"cannot write {mark}.*taken for 'think' by itself"):
            use_think_kind(tokenizer, kind)
    with pytest.raises(ValueError, match="cannot write '</think>'"):
        use_think_kind(bare({"So": 0, "?": 1}), "think")
    with pytest.raises(ValueError, match="think='none': the model has no tokenizer"):
        use_think_kind(None, "none")
    assert think_kind(tokenizer).name == "think"


def test_every_kind_has_marks_of_its_own():
    for name, kind in THINK_KINDS.items():
        assert kind.name == name
        for text in kind.texts:
            whole = [found[0] for found in kind.marks.finditer(f"a{text}b")]
            assert whole == [text]
        if kind.closings:  # what leaves the block closes it, and the reply follows
            assert kind.marks.findall(kind.leaving)[-1] == kind.closings[-1]
            thinking, reply = split_reply(f"a{kind.leaving}b")
            assert kind.marks.sub("", thinking).strip().startswith("a")
            assert reply.strip() == "b"


@families
def test_the_kind_of_a_text(family):
    assert kind_of_text(family.text) is THINK_KINDS[family.kind]
    assert kind_of_text("So 4.") is THINK_KINDS["think"]
    assert kind_of_text("[THINK] is no tag of mine.</think>").name == "magistral"


@families
def test_the_reply_is_graded(family):
    text = family.text.replace("Okay.", "The answer is 13. Or \\boxed{13}?")
    assert split_reply(text)[1].strip() == REPLY
    assert boxed_answer(text) == "12"
    problem = Problem("p", "What is 3 * 4?", "12")
    assert grade(text, problem).correct
    assert not grade(text, Problem("p", "What?", "13")).correct
    bare_reply = text.replace(REPLY, "There are 7 of them.")
    assert stated_answer(bare_reply) is None
    assert closing_number(bare_reply, "") == "7"
    unboxed = grade(bare_reply, Problem("p", "How many?", "7"))
    assert (unboxed.correct, unboxed.method) == (True, "closing number")
    thought = text.split(family.turns)[0]  # cut off: all that is written counts
    assert grade(thought, Problem("p", "What?", "13")).correct
    code = f"{family.begins}\n```\na\n```\n{family.turns}No."
    assert code_block(code) is None


def test_the_solution_s_own_marks_are_no_text():
    text = "a<|end_of_thought|><|begin_of_solution|>So 4.<|end_of_solution|>"
    assert split_reply(text) == ("a", "So 4.")
    assert closing_number(text, "") == "4"


def test_only_the_final_channel_is_the_reply():
    final = "<|start|>assistant<|channel|>final<|message|>It is 5."
    text = (
        "<|channel|>analysis<|message|>Is it 3?<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>The answer is 4.<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>Or 6.<|end|>"
    )
    assert split_reply(text + final)[1] == "It is 5."
    assert stated_answer(text + final) is None
    assert closing_number(text + final, "") == "5"
