from mi_lens.files import read_jsonl
from mi_lens.generation import Request, generate
from mi_lens.runs import generate_into
from mi_lens.traces import load_traces

QUESTIONS = ["Hi", "What is 3?", "So?"]
REQUESTS = [Request(question, max_new_tokens=4) for question in QUESTIONS]


def test_what_is_there_is_not_made_again(tiny_model, tmp_path):
    expected = generate(tiny_model, REQUESTS, progress=False)
    path = tmp_path / "traces.jsonl"
    new = []

    def keep(finished):
        assert load_traces(path)[-1] == finished.trace  # on disk by then
        new.append(finished.trace)

    def run(requests):
        new.clear()
        return generate_into(tmp_path, tiny_model, requests, batch_size=2, progress=False,
                             on_finished=keep)  # fmt: skip

    assert run([REQUESTS[0], REQUESTS[1], REQUESTS[0]]) == [expected[i] for i in (0, 1, 0)]
    assert sorted(t.id for t in new) == sorted(t.id for t in expected[:2])
    path.write_bytes(path.read_bytes()[:-9])  # killed while it wrote the second
    assert run(REQUESTS) == expected
    assert len(new) == 2
    assert len(read_jsonl(path)) == 3
    assert run(REQUESTS) == expected
    assert new == []


def test_without_a_folder_nothing_is_written(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = generate_into(None, tiny_model, REQUESTS, batch_size=3, progress=False)
    assert made == generate(tiny_model, REQUESTS, progress=False)
    assert list(tmp_path.iterdir()) == []
