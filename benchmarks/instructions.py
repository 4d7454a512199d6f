"""Instructions per turn of the four hottest loops, counted by callgrind: figures that noise cannot move.

    python benchmarks/instructions.py            compare with instructions.json; status 1 if one has grown by over 5 %
    python benchmarks/instructions.py --write    write instructions.json

Each loop runs twice with different lengths in a process of its own; the difference of the two counts is what the added
turns cost, start-up and all else cancelled. Only instructions of the core count, not what it calls. The figures belong
to one compiler, which is noted beside them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

MOST = 1.05
RECORD = Path(__file__).with_name("instructions.json")

PRELUDE = """
import dataclasses, sys
import numpy as np
import vpmu
from vpmu._plan import Trace
from vpmu._scenario import plan
from vpmu_core.machine import Machine
n = int(sys.argv[1])
fio = vpmu.workload("fio-4k-read")
one = dataclasses.replace(fio, exits=tuple(e for e in fio.exits if e.reason == "EPT_MISCONFIG"))
four = ["branches", "branch-misses", "cache-references", "cache-misses"]
live = "stat:instructions,cycles,ref-cycles," + ",".join(four * 2)
design = "mediated,scope=every-exit"
def planned(seconds):
    given = {"workload": one, "guest_perf": (live,), "seconds": seconds}
    return plan(vpmu.Scenario(cpu="emeraldrapids", design=design, **given))
def run(planned, engine):
    machine = Machine(planned, engine)
    while not machine.advance():
        pass
    return sum(machine.result()["exits"])
"""
#: Of each loop: lengths of the two runs, and what prints the number of turns.
LOOPS = {
    "lazy: a drawn exit": ((1, 11), "print(run(planned(n), 'lazy'))"),
    "lazy: a replayed exit": (
        (10_000, 210_000),
        "trace = Trace(np.full(n, 30_000), np.zeros(n, np.uint16), np.full(n, 900), np.zeros(n, int), False)\n"
        "print(run(dataclasses.replace(planned(1), trace=trace, end=60_000 * n), 'lazy'))",
    ),
    "stepwise: a full switch of 11 live counters": (
        (1, 3),
        "base = planned(1)\nprint(run(dataclasses.replace(base, end=base.end * n // 20), 'stepwise'))",
    ),
    "Pmu.execute: RDMSR": (
        (10_000, 110_000),
        "ops = np.zeros(n, vpmu.OP_DTYPE)\nops['address'] = 0x38F\n"
        "vpmu.Pmu(vpmu.cpu('sapphirerapids')).execute(ops)\nprint(n)",
    ),
}


def of_core(profile: Iterable[str]) -> int:
    """Instructions that the core itself executes, callees apart: what numpy takes depends on the machine."""
    objects: dict[str, bool] = {}
    here = called = False
    total = 0
    for line in profile:
        if match := re.match(r"(c?ob)=(\(\d+\))(?: (.*))?", line):
            if match[3]:
                objects[match[2]] = "/vpmu_core/" in match[3]
            if match[1] == "ob":
                here = objects[match[2]]
        elif line.startswith("calls="):
            called = True
        elif match := re.fullmatch(r"[+*-]?\d* (\d+)\n?", line):
            total += int(match[1]) if here and not called else 0
            called = False
    return total


def count(script: str, length: int) -> tuple[int, int]:
    """Turns and instructions of the core in a process."""
    environment = os.environ | {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "callgrind.out"
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", sys.executable, "-c"]
        done = subprocess.run(
            [*valgrind, PRELUDE + script, str(length)], capture_output=True, text=True, env=environment, check=False
        )
        if done.returncode or not profile.exists():
            raise SystemExit(f"callgrind failed: {done.stderr[-500:]}")
        with profile.open() as lines:
            return int(done.stdout.split()[-1]), of_core(lines)


def main(arguments: list[str]) -> int:
    """Count each loop, and compare with the record (1 if one has grown) or --write it; 2 without valgrind."""
    if shutil.which("valgrind") is None:
        print("valgrind is not installed (apt-get install valgrind)", file=sys.stderr)
        return 2
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    figures = {}
    for name, ((short, long), script) in LOOPS.items():
        (few, least), (many, most) = count(script, short), count(script, long)
        figures[name] = round((most - least) / (many - few), 2)
    if arguments == ["--write"]:
        RECORD.write_text(json.dumps({"compiler": compiler, "instructions": figures}, indent=2) + "\n")
        return 0
    record = json.loads(RECORD.read_text())
    if record["compiler"] != compiler:
        print(f"recorded with {record['compiler']}, this is {compiler}: nothing is compared")
    grown = 0
    for name, now in figures.items():
        before = record["instructions"][name]
        grown += now > MOST * before
        print(f"{name}: {before} -> {now} instructions{' GROWN' if now > MOST * before else ''}")
    return 1 if grown and record["compiler"] == compiler else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
