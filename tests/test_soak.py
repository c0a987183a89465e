"""A slice of the campaign of abuse (`make soak`): the same order, a fixed number of attempts."""

import pytest

from tests.processes import FORKS
from tests.soak.campaign import ORDER, run_campaign
from tests.soak.faults import KINDS

ATTEMPTS = 30
KILLS = 30


@pytest.mark.slow
@pytest.mark.timeout(900)  # many short runs one after the other: on a busy machine they take long
@pytest.mark.skipif(not FORKS, reason="needs processes that can be forked and killed")
def test_a_slice_of_the_campaign(tmp_path):
    campaign = run_campaign(tmp_path, seed=0, numbers=range(ATTEMPTS))
    print(campaign)
    assert campaign.failures == []
    assert set(KINDS) == set(ORDER)
    assert all(campaign.attempts(kind) >= ATTEMPTS / 10 for kind in KINDS)
    assert campaign.kills >= KILLS
