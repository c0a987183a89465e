"""`python -m tests.soak --seed 0 --minutes 25`, or `--only 17` to repeat one attempt."""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Runs a campaign and prints its counts; exits with status 1 if an attempt failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--only", type=int, help="the number of a single attempt")
    asked = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported
    from tests.soak.campaign import run_campaign

    folder = Path(tempfile.mkdtemp(prefix="mi-lens-soak-"))
    numbers = None if asked.only is None else [asked.only]
    campaign = run_campaign(folder, asked.seed, numbers, minutes=asked.minutes, tell=print)
    print(campaign)
    if campaign.failures:
        print(f"folders of failed attempts: {folder}")
    else:
        shutil.rmtree(folder)
    sys.exit(bool(campaign.failures))


if __name__ == "__main__":
    main()
