"""The first thing to run inside the sandbox: it limits itself, then becomes the program.

Its text is handed to `python -I -c`, so that no file of the package must be readable in there.
"""

import json
import os
import resource
import sys
import types

# What competition programs take for granted; they may import all of it again.
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
    """Sets hard limits, which an ordinary user cannot lift, then stops being root."""
    for name, value in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (most, most))
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def main() -> None:
    """Runs `program.py`, or calls the function named and writes what it returns as JSON."""
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
    os.dup2(2, 1)  # what the program prints is not what it returns
    program = become("program", text)
    holder = program.Solution() if hasattr(program, "Solution") else program
    arguments = [json.loads(line) for line in sys.stdin.read().splitlines()]
    result = getattr(holder, task["function"])(*arguments)
    with os.fdopen(replies, "w", encoding="utf-8") as file:
        json.dump(result, file)


def become(name: str, text: str) -> types.ModuleType:
    """Runs a program's text as the module of that name."""
    program = types.ModuleType(name)
    sys.modules[name] = program
    exec(COMMON_NAMES, program.__dict__)
    exec(compile(text, "program.py", "exec"), program.__dict__)
    return program


if __name__ == "__main__":
    main()
