"""Every study of paper 2, and further readings, runs small and says what it found."""

from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from tests.studies import OTHER_STUDIES, check_study, run_small


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all studies: an analysis that several read is made once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def no_figure_is_left_by_another_test():
    """Where one study fails, only it does."""
    plt.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_STUDIES)
def test_a_study_draws_its_figure_and_says_what_it_found(name: str, runs: Path, tmp_path: Path):
    check_study(name, runs, tmp_path)


@pytest.mark.slow
def test_a_study_run_again_makes_no_trace_anew_and_says_the_same(runs: Path, tmp_path: Path):
    first = run_small("thought_gains", runs, tmp_path)
    traces = runs / "sampled" / "traces.jsonl"
    before = traces.read_bytes()
    assert run_small("thought_gains", runs, tmp_path) == first
    assert traces.read_bytes() == before
