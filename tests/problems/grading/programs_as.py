"""Runs programs in the sandbox for another process, which started this one as an ordinary user.

Each line on stdin is a list of programs, which run at the same time; the reply is their outcomes.
"""

import dataclasses
import json
import sys
from concurrent.futures import ThreadPoolExecutor

from mi_lens.problems.grading import sandbox


def outcome(request):
    limits = sandbox.Limits(**request.pop("limits"))
    return dataclasses.asdict(sandbox._run(**request, limits=limits))


if __name__ == "__main__":
    for line in sys.stdin:
        requests = json.loads(line)
        with ThreadPoolExecutor(len(requests)) as pool:
            print(json.dumps(list(pool.map(outcome, requests))), flush=True)
