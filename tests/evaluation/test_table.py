from mi_lens.evaluation.comparison import Arm
from mi_lens.evaluation.evaluate import Evaluation
from mi_lens.evaluation.result import Result
from mi_lens.evaluation.table import COLUMNS, report, report_table
from mi_lens.report.paired_tables import comparison_table


def arm(name, correct, tokens):
    results = (
        Result(
            f"p{i}",
            "s",
            None,
            name,
            0,
            f"{name}{i}",
            None,
            right,
            "exact",
            tokens,
            None,
            stop,
            None,
        )
        for i, (right, stop) in enumerate(zip(correct, ("eos", "length") * 2, strict=True))
    )
    return Arm(name, tuple(results), {"max_new_tokens": 2000})


BASE = arm("base", (True, False, False, True), 1500)
OTHER = arm("another name", (True, True, False, True), 1200)


def test_every_table_has_the_same_columns():
    text = report([OTHER], BASE)
    html = report_table([OTHER], BASE)
    evaluation = Evaluation((*BASE.results, *OTHER.results), BASE.setting)
    page = comparison_table(evaluation, evaluation.comparisons(), {OTHER.name: set()})
    assert page.columns == tuple(column.heading for column in COLUMNS)
    for column in COLUMNS:
        brief = column.brief != "nothing"
        assert (f">{column.heading}</th>" in html) == brief
        if brief:
            assert column.heading in text
    values = dict(zip(page.columns, (cell.text for cell in page.rows[1]), strict=True))
    assert values["accuracy, %"].startswith("75.0 (")
    assert values["mended"] == "1"
    for heading in ("difference, points", "p (Holm)", "tokens", "difference, tokens"):
        assert values[heading] in text
        assert f">{values[heading]}</td>" in html
    assert [page.rows[1][i].key for i in (3, 5, 6)] == [0.25, 1, 0]
    assert values["verdict"] == "open"
    assert all(cell.empty for cell in page.rows[0][3:9])


def test_columns_of_the_text_stand_under_their_headings():
    lines = report([OTHER], BASE).splitlines()
    heads, base, other = lines[2:5]
    assert len(heads) == len(base) == len(other)
    for heading, value in (("accuracy, %", "75.0"), ("tokens", "1200"), ("capped, %", "50.0")):
        end = heads.index(heading) + len(heading)
        assert other[:end].endswith(value)
    assert base.split() == ["base", "50.0", "1500", "50.0"]
