"""Take the guards out of the lazy engine one at a time, and see whether the tests notice.

    python tools/mutants.py [WORDS…]      all mutants, or those whose name has one of the words

Needs what builds the core (scikit-build-core, Cython, cython-cmake, cmake, ninja, numpy) and what tests it. Works in a
temporary directory, or in $VPMU_MUTANTS, which is kept. Exit status 1 if one survives that is not noted as equivalent.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = Path("src/vpmu_core")
MODULES = ("lazy", "summary", "skipping", "folding")
SOURCES = ("lazy.pxd", "lazy.pyx", "summary.pyx", "skipping.pyx", "folding.pyx")
TESTS = ["tests/test_lazy.py", "-k", "plans or traces"]
#: Run pytest on the mutant's own installation, whatever the environment has installed as editable.
RUN = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__module__.startswith('_editable_skbc')]; "
    "import pytest; sys.exit(pytest.main(sys.argv[2:]))"
)

#: The test at the end of the hypervisor's step, and what it would be at the exit.
AT_END = "or running >= at.most_running or running + at.idle"
AT_EXIT = "or k.usable != SKIPPABLE or at.running + left >= at.most_running or"
#: The guard of the first occurrence sees it first: a counter that is zero and counts is not skipped past, and one that
#: does not count keeps what it had when the summary was made.
ZERO = "the guard of the first occurrence is there"
#: A summary is kept only if one exit on a copy did what fold() does for one.
REFUSED = "no exit is summarised then"
#: Only a counter that the guest starts below half of its range would wrap elsewhere, and Linux starts none there.
ANYWHERE = "an event counts on from its counter's value, wherever that was folded"


def without(text: str) -> tuple[tuple[str, str], ...]:
    """One guard less."""
    return ((text, ""),)


#: Name, replacements (each of all its places), and why nothing can notice, if so.
MUTANTS: tuple[tuple[str, tuple[tuple[str, str], ...], str], ...] = (
    ("first occurrence", without("        if m.hardware.counter[slot] == 0:\n            return 0\n"), ""),
    ("budget", without("            budget[0] = min(budget[0], kept)\n"), ""),
    ("overflow horizon a cycle late", (("(need - 2) << 32) // rate)", "(need + 1) << 32) // rate + 2)"),), ""),
    (
        "wall horizon a cycle late",
        (
            ("or running >= at.most_running", "or running > at.most_running"),
            ("running < at.most_running", "running <= at.most_running"),
            (
                "min(at.most_running - at.running, NEVER - at.work))",
                "min(at.most_running - at.running, NEVER - at.work) + 1)",
            ),
        ),
        "",
    ),
    (
        "wall tested at the exit: drawn",
        ((f"{AT_END} + k.idle", f"{AT_EXIT} running + at.idle + k.idle"),),
        "",
    ),
    (
        "wall tested at the exit: traced",
        ((f"{AT_END} + idle", f"{AT_EXIT} running + at.idle + idle"),),
        "",
    ),
    ("PMI in flight", ((" and m.pmi_arrival == NEVER and", " and"),), ""),
    ("nonzero mask in key", (("(m.hardware.counter[slot] != 0) << slot\n", "0 << slot\n"),), ZERO),
    (
        "STATUS in key",
        (
            (
                "    key.global_status = m.hardware.global_status\n"
                "    key.guest_global_status = m.guest.global_status\n",
                "",
            ),
        ),
        "",
    ),
    ("host events: leftovers and clocks", without(" and not m.has_host"), ""),
    ("caches: emulated instructions in hardware", without("    _add_emulated(&m.hardware, s.counted, n)\n"), ""),
    ("caches: emulated instructions in the ideal", without("    _add_emulated(&m.ideal, s.counted_ideally, n)\n"), ""),
    ("counters not brought up to date", without("    advance_to_now(m, &m.hardware, clock)\n"), ""),
    (
        "end a cycle late",
        (
            ("+ k.idle >= at.end", "+ k.idle > at.end"),
            ("+ idle >= at.end", "+ idle > at.end"),
            ("running + idle < at.end", "running + idle <= at.end"),
        ),
        "",
    ),
    (
        "work horizon a cycle late",
        (("if work >= at.most_work or", "if work > at.most_work or"),),
        "horizons are two occurrences early",
    ),
    (
        "NMI pending",
        without(" not m.nmi_pending and not m.nmi_in_service and"),
        "a summary is refused while an NMI is pending",
    ),
    (
        "reprogram bits",
        without(" and not m.reprogram and not m.stopped"),
        "an exit serves its requests before it enters",
    ),
    ("vector or PMI pending", without(" and not m.vector_pending and not m.pmi_requested"), ""),
    ("selectors in key", without("    memcpy(key.selector, m.hardware.selector, sizeof(key.selector))\n"), ""),
    (
        "guest selectors in key",
        without("    memcpy(key.guest_selector, m.guest.selector, sizeof(key.guest_selector))\n"),
        "",
    ),
    (
        "FIXED_CTR_CTRL in key",
        without(
            "    key.fixed_ctr_ctrl = m.hardware.fixed_ctr_ctrl\n"
            "    key.guest_fixed_ctr_ctrl = m.guest.fixed_ctr_ctrl\n"
        ),
        "",
    ),
    (
        "GLOBAL_CTRL in key",
        without("    key.global_ctrl = m.hardware.global_ctrl\n    key.guest_global_ctrl = m.guest.global_ctrl\n"),
        "",
    ),
    ("LVTPC in key", without("    key.lvtpc = m.hardware.lvtpc\n    key.guest_lvtpc = m.guest.lvtpc\n"), ""),
    ("counting_instructions in key", without("    key.counting_instructions = m.counting_instructions\n"), ""),
    (
        "ideal's enables in key",
        without(
            "    key.ideal_local[0] = enabled(&m.ideal, False)\n    key.ideal_local[1] = enabled(&m.ideal, True)\n"
        ),
        "",
    ),
    ("stale ledger in key", without("    key.ledger_stale = m.ledger_stale\n"), ""),
    (
        "summary: registers may change",
        without(
            "_same_registers(&m.hardware, &after.hardware) and _same_registers(&m.guest, &after.guest)\n        and "
        ),
        "",
    ),
    (
        "summary: requests and PMIs",
        without(
            " and not after.vector_pending and not after.pmi_requested and not after.nmi_pending\n"
            "        and not after.reprogram"
        ),
        "",
    ),
    ("summary: PMI put in flight", (("and after.pmi_arrival == NEVER", ""),), ""),
    (
        "summary: software counters",
        without("        and memcmp(m.vcpu, after.vcpu, SLOTS * sizeof(vcpu_counter_t)) == 0\n"),
        "",
    ),
    (
        "summary: ledger of guest events",
        without(
            "        and memcmp(m.guest_event, after.guest_event, MAX_GUEST_EVENTS * sizeof(guest_event_t)) == 0\n"
        ),
        "",
    ),
    (
        "summary: host events",
        without("        and memcmp(m.host_event, after.host_event, MAX_HOST_EVENTS * sizeof(host_event_t)) == 0\n"),
        "",
    ),
    ("summary: PMI tallies", without("        and memcmp(&m.pmi, &after.pmi, sizeof(pmi_tally_t)) == 0\n"), ""),
    (
        "summary: creations",
        without("        and m.creates == after.creates\n"),
        "an event is in another place then",
    ),
    (
        "blocking always skipped",
        (
            ("    if idle and not s.may_idle:\n            break\n", "    if False:\n            break\n"),
            ("if e.idle and not s.may_idle:", "if False:"),
        ),
        "",
    ),
    ("blocking: accesses", without(" and _same_accesses(m, copy, s)"), ""),
    (
        "refused fastpaths: overlap",
        (("return min(handling, m.cost[COST_FASTPATH_REFUSED]) if s.refused else 0", "return 0"),),
        "",
    ),
    (
        "userspace handling by the monitor",
        (("    return handling - m.cost[COST_HANDLING_KERNEL]", "    return 0"),),
        "",
    ),
    (
        "ideal's instructions in budget",
        ((", m.counting_instructions | m.ideal_instructions, &budget)", ", m.counting_instructions, &budget)"),),
        "",
    ),
    (
        "half of what is left for instructions",
        (("min(need >> 1, budget[0])", "min(need, budget[0])"),),
        "the other half is only for speed",
    ),
    ("folding: one too many", (("e.perf.count + n) & mask", "e.perf.count + n + (n > 1)) & mask"),), ""),
    (
        "folding: at the end of the jump",
        (("_run_to(m, course.folded, clock)", "_run_to(m, course.work, clock)"),),
        ANYWHERE,
    ),
    ("folding: where the jump begins", (("at.folded = work if k.folds else at.folded", "pass"),), ANYWHERE),
    (
        "folding: regular exits",
        without("            if k.folds:\n                at.folded = max(at.folded, instant)\n"),
        "",
    ),
    ("folding: period kept", without("            e.perf.period = sample_period(c.counter, mask)\n"), REFUSED),
    ("folding: count kept", without("            e.perf.count = 0\n"), REFUSED),
    ("folding: other events stay", (("        if slots >> e.guest_slot & 1:\n", "        if True:\n"),), REFUSED),
    ("folding: too near to the wrap", (("<uint64_t>m.least_period + 8 if m.backed", "0 if m.backed"),), ""),
    ("folding: room of waiting events", (("most = min(most, room - min(room, kept_free(m)))", "pass"),), ""),
    ("folding: which sets mix", without("    if s.reprogrammed:\n        lazy.reprogrammed = s.reprogrammed\n"), ""),
    (
        "folding: chunks of traces",
        (("k.usable != SKIPPABLE or k.folds or s.refused", "k.usable != SKIPPABLE or s.refused"),),
        "",
    ),
    ("folding: reprogrammings", without("    m.reprograms += n * s.reprograms\n"), ""),
    ("regular: pending exit not put back", without("    stream.count[stream.pending] -= 1\n"), ""),
)


def mutate(texts: dict[str, str], changes: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Change the sources; an error if none has what is to be changed any more."""
    for old, new in changes:
        if not any(old in text for text in texts.values()):
            raise SystemExit(f"no source of the lazy engine has {old!r} any more: bring the table up to date")
        texts = {name: text.replace(old, new) for name, text in texts.items()}
    return texts


def call(command: list[str], where: Path, log: Path, seconds: int = 600, **environment: str) -> int:
    """Exit status; 124 if it takes too long."""
    with log.open("a") as out:
        try:
            return subprocess.run(
                command, cwd=where, stdout=out, stderr=out, env=os.environ | environment, timeout=seconds, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return 124


def main(words: list[str]) -> int:
    """Build and test the mutants whose names have one of the words, all without any; 1 if the tests let one live."""
    place = Path(os.environ.get("VPMU_MUTANTS") or tempfile.mkdtemp(prefix="vpmu-mutants-"))
    tree, build, site, log = place / "tree", place / "build", place / "site", place / "log"
    place.mkdir(parents=True, exist_ok=True)
    original = {name: (ROOT / CORE / name).read_text() for name in SOURCES}
    for _, changes, _ in MUTANTS:
        mutate(original, changes)
    for folder in (tree, site):
        shutil.rmtree(folder, ignore_errors=True)
    leave = shutil.ignore_patterns(".git", ".hypothesis", "__pycache__", "build", ".venv", ".nox")
    shutil.copytree(ROOT, tree, ignore=leave)
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-build-isolation",
        "--no-deps",
        f"--target={site}",
    ]
    if call([*install, ".", "-C", f"build-dir={build}"], tree, log):
        raise SystemExit(f"the core could not be built, see {log}")
    survivors = 0
    for name, changes, equivalent in (("none", (), "nothing was changed"), *MUTANTS):
        if words and name != "none" and not any(word in name for word in words):
            continue
        start = time.monotonic()
        for source, text in mutate(original, changes).items():
            if (tree / CORE / source).read_text() != text:
                (tree / CORE / source).write_text(text)
        if call(["ninja", "-C", str(build), *MODULES], tree, log):
            raise SystemExit(f"{name}: could not be built, see {log}")
        for built in MODULES:
            for module in (build / "out").glob(f"{built}.*.so"):
                shutil.copy(module, site / "vpmu_core")
        test = [sys.executable, "-c", RUN, str(site), "-q", "-x", "--tb=line", "-p", "no:cacheprovider", *TESTS]
        status = call(test, tree, log, HYPOTHESIS_PROFILE="mutants", VPMU_DIFFERENCES=str(place / "differences" / name))
        if status not in (0, 1, 124):
            raise SystemExit(f"{name}: the tests could not be run, see {log}")
        if not status and not equivalent:
            survivors += 1
        if status and not changes:
            raise SystemExit(f"the tests fail without any change, see {log}")
        said = (
            "caught"
            if status == 1
            else "caught (too slow)"
            if status
            else f"survives{': ' + equivalent if equivalent else ''}"
        )
        print(f"{name}: {said} [{time.monotonic() - start:.0f} s]", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
