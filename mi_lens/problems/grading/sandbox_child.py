"""Runs first inside the sandbox: it limits its own process, then runs the program in it.

`python -I -c` gets this file as text, so that the sandbox need not read any file of the package.
"""

import json
import os
import resource
import sys
import types

# Competition programs use these names without importing them; importing them again is harmless.
COMMON_NAMES = """
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
from builtins import pow
"""


def confine(limits: dict[str, int], user: int | None) -> None:
    """Sets hard limits, which an ordinary user cannot raise, then gives up root's rights."""
    for name, value in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (limit, limit))
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def main() -> None:
    """Runs `program.py`, or calls one of its functions and writes the result as JSON."""
    task = json.loads(sys.argv[1])
    os.chdir(task["folder"])
    confine(task["limits"], task["user"])
    with open("program.py", encoding="utf-8") as file:
        text = file.read()
    sys.argv = ["program.py"]
    if task["function"] is None:
        become("__main__", text)
        return
    replies = os.dup(1)
    os.dup2(2, 1)  # the program may print, but stdout is for the returned value
    program = become("program", text)
    holder = program.Solution() if hasattr(program, "Solution") else program
    arguments = [json.loads(line) for line in sys.stdin.read().splitlines()]
    result = getattr(holder, task["function"])(*arguments)
    with os.fdopen(replies, "w", encoding="utf-8") as file:
        json.dump(result, file)


def become(name: str, text: str) -> types.ModuleType:
    """Runs a program's text as a module with this name."""
    program = types.ModuleType(name)
    sys.modules[name] = program
    exec(COMMON_NAMES, program.__dict__)
    exec(compile(text, "program.py", "exec"), program.__dict__)
    return program


if __name__ == "__main__":
    main()
