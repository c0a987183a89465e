"""Every study of per-trace MI, and others of paper 1, runs small and says what it found."""

from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from tests.studies import STUDIES_OF_MI, check_study


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all studies: an analysis that several read is made once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def no_figure_is_left_by_another_test():
    """Where one study fails, only it does."""
    plt.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES_OF_MI)
def test_a_study_draws_its_figure_and_says_what_it_found(name: str, runs: Path, tmp_path: Path):
    check_study(name, runs, tmp_path)
