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
SOURCES = (
    "lazy.pxd",
    "lazy.pyx",
    "summary.pyx",
    "skipping.pyx",
    "folding.pyx",
    "segment.pyx",
    "hosttime.pyx",
    "counting.pyx",
)
TESTS = [
    *("tests/test_lazy.py", "tests/test_switch_programs.py", "tests/test_trace_chunks.py"),
    *("-k", "plans or traces or longer or chunks"),
]
#: Where it is kept what is due first. Both engines do without what is late there: only the slow machine tells.
CLOCKS = ("timeline.pyx", "counting.pyx", "guesttimer.pyx", "hostsched.pyx", "logicalcpu.pyx", "summary.pyx")
#: Trapped accesses that are done as before.
MEMOS = ("memo.pyx", "summary.pyx", "guestaccess.pyx", "timeline.pyx", "vcpus.pyx")
MEMO_TESTS = ["tests/test_lazy.py", "tests/test_vcpus.py", "-k", "handled or clock or kept or before"]
CLOCK_TESTS = ["tests/test_machine.py", "tests/test_vcpus.py", "-k", "random"]
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
#: A summary is kept only if exits on copies did what it says of one, and fold() does for one.
REFUSED = "no exit is summarised then"
#: Only a counter that the guest starts below half of its range would wrap elsewhere, and Linux starts none there.
ANYWHERE = "an event counts on from its counter's value, wherever that was folded"

#: What guest perf does in a handler: each access with one value in a state, and none that is refused.
HANDLER = "neither handlers of guest perf nor random programs do that where it matters"
BETWEEN = "a wrap puts a PMI in flight, and guest perf starts no counter at zero"

#: What guest perf changes only together: with any of it in the key, no summary is used where it does not hold.
TOGETHER = "guest perf changes it together with others of the key: all of them out are caught"
CONTROLS = (
    "fixed_ctr_ctrl = m.hardware.fixed_ctr_ctrl",
    "guest_fixed_ctr_ctrl = m.guest.fixed_ctr_ctrl",
    "global_ctrl = m.hardware.global_ctrl",
    "guest_global_ctrl = m.guest.global_ctrl",
    "lvtpc = m.hardware.lvtpc",
    "guest_lvtpc = m.guest.lvtpc",
    "ideal_local[0] = enabled(&m.ideal, False)",
    "ideal_local[1] = enabled(&m.ideal, True)",
    "ideal_instructions = m.ideal_instructions",
    "counting_instructions = m.counting_instructions",
    "ledger_stale = m.ledger_stale",
    "selector, m.hardware.selector, sizeof(key.selector))",
    "guest_selector, m.guest.selector, sizeof(key.guest_selector))",
)
#: Of what a summary must not change, the designs of the registry change nothing without a counter or a clock.
TO_COME = "kept for designs to come: with all of these out the registry's agree"
#: A wrap takes one occurrence more than fits, and an exit before the horizon one cycle less.
AHEAD = "only two activities that are both ahead of their mean in the last cycle get there"
SAME_REGISTERS = "_same_registers(&m.hardware, &after.hardware) and _same_registers(&m.guest, &after.guest)"

#: What a counter may show beyond its mean.
OVER = "3 + ((m.hardware_rate[GUEST_USER][slot] + m.hardware_rate[GUEST_KERNEL][slot]) >> 32)"
#: The same of exits that are drawn.
DRAWN_AT_END = AT_END.replace("at.", "course.")
DRAWN_AT_EXIT = AT_EXIT.replace("at.", "course.").replace("+ left", "+ at.left")
#: What takes a venture back, and the same less one each.
BACK = "at.stream.generator, at.left, at.kind = generator, left, kind"
BACK_BUT_GENERATOR = "at.left, at.kind = left, kind"
BACK_BUT_LEFT = "at.stream.generator, at.kind = generator, kind"
BACK_BUT_KIND = "at.stream.generator, at.left = generator, left"


def without(text: str) -> tuple[tuple[str, str], ...]:
    """One guard less."""
    return ((text, ""),)


#: Name, replacements (each of all its places), and why nothing can notice, if so.
MUTANTS: tuple[tuple[str, tuple[tuple[str, str], ...], str], ...] = (
    ("first occurrence", without("        if m.hardware.counter[slot] == 0:\n            return 0\n"), ""),
    ("budget", without("            budget[0] = kept\n"), ""),
    ("overflow horizon a cycle late", (("cycles_of(need - over, rate)", "cycles_of(need + 1, rate) + 2"),), ""),
    (
        "wall horizon a cycle late",
        (
            ("running >= at.most_running", "running > at.most_running"),
            ("running >= course.most_running", "running > course.most_running"),
            ("end.running < end.most_running", "end.running <= end.most_running"),
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
        ((f"{DRAWN_AT_END} + k.idle", f"{DRAWN_AT_EXIT} running + course.idle + k.idle"),),
        "",
    ),
    (
        "wall tested at the exit: traced",
        ((f"{AT_END} + idle", f"{AT_EXIT} running + at.idle + idle"),),
        "",
    ),
    ("PMI in flight", ((" and m.pmi_arrival == NEVER and", " and"),), ""),
    ("nonzero mask in key", (("key.nonzero = nonzero_counters(&m.hardware)", "key.nonzero = 0"),), ZERO),
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
    ("caches: emulated instructions in hardware", without("    _add_emulated(&m.hardware, s.counted, n)\n"), ""),
    ("caches: emulated instructions in the ideal", without("    _add_emulated(&m.ideal, s.counted_ideally, n)\n"), ""),
    ("rates of selectors that have changed", (("    refresh_rates(m)\n    budget", "    budget"),), ""),
    (
        "end a cycle late",
        (
            ("+ k.idle >= course.end", "+ k.idle > course.end"),
            ("+ idle >= at.end", "+ idle > at.end"),
            ("running + idle < at.end", "running + idle <= at.end"),
            ("end.running + end.idle < end.end", "end.running + end.idle <= end.end"),
        ),
        "",
    ),
    (
        "work horizon a cycle late",
        (
            ("if work >= at.most_work or", "if work > at.most_work or"),
            ("if work >= course.most_work or", "if work > course.most_work or"),
        ),
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
    ("switches that lose counters", without("\n        and (m.load == NULL or m.keeps_counters)"), ""),
    (
        "refused fastpaths: whose time",
        (("s.bound if s.refused or e.kind", "s.bound if e.kind"),),
        REFUSED,
    ),
    (
        "vector or PMI pending",
        without(" and not m.vector_pending and not m.pmi_requested"),
        "LVTPC is masked then, which is in the key",
    ),
    ("selectors in key", without("    memcpy(key.selector, m.hardware.selector, sizeof(key.selector))\n"), TOGETHER),
    (
        "guest selectors in key",
        without("    memcpy(key.guest_selector, m.guest.selector, sizeof(key.guest_selector))\n"),
        TOGETHER,
    ),
    (
        "FIXED_CTR_CTRL in key",
        without(
            "    key.fixed_ctr_ctrl = m.hardware.fixed_ctr_ctrl\n"
            "    key.guest_fixed_ctr_ctrl = m.guest.fixed_ctr_ctrl\n"
        ),
        TOGETHER,
    ),
    (
        "GLOBAL_CTRL in key",
        without("    key.global_ctrl = m.hardware.global_ctrl\n    key.guest_global_ctrl = m.guest.global_ctrl\n"),
        TOGETHER,
    ),
    ("LVTPC in key", without("    key.lvtpc = m.hardware.lvtpc\n    key.guest_lvtpc = m.guest.lvtpc\n"), TOGETHER),
    ("counting_instructions in key", without("    key.counting_instructions = m.counting_instructions\n"), TOGETHER),
    (
        "ideal's enables in key",
        without(
            "    key.ideal_local[0] = enabled(&m.ideal, False)\n    key.ideal_local[1] = enabled(&m.ideal, True)\n"
        ),
        TOGETHER,
    ),
    (
        "all controls in key",
        (
            *[(f"    {'memcpy(' * ('sizeof' in line)}key.{line}\n", "") for line in CONTROLS],
            ("        key.counts[i] = m.guest_event[i].slot if m.guest_event[i].active else -1\n", "        pass\n"),
        ),
        "",
    ),
    ("stale ledger in key", without("    key.ledger_stale = m.ledger_stale\n"), TOGETHER),
    (
        "summary: registers may change",
        without(
            "_same_registers(&m.hardware, &after.hardware) and _same_registers(&m.guest, &after.guest)\n        and "
        ),
        TO_COME,
    ),
    (
        "summary: requests and PMIs",
        without(
            " and not after.vector_pending and not after.pmi_requested and not after.nmi_pending\n"
            "        and not after.reprogram"
        ),
        TO_COME,
    ),
    ("summary: PMI put in flight", (("and after.pmi_arrival == NEVER", ""),), TO_COME),
    (
        "summary: software counters",
        without("        and memcmp(m.vcpu, after.vcpu, SLOTS * sizeof(vcpu_counter_t)) == 0\n"),
        TO_COME,
    ),
    (
        "summary: ledger of guest events",
        without(
            "        and memcmp(m.guest_event, after.guest_event, MAX_GUEST_EVENTS * sizeof(guest_event_t)) == 0\n"
        ),
        TO_COME,
    ),
    (
        "summary: host events",
        without("        and memcmp(m.host_event, after.host_event, MAX_HOST_EVENTS * sizeof(host_event_t)) == 0\n"),
        TO_COME,
    ),
    (
        "summary: anything may change",
        (
            (f"{SAME_REGISTERS}\n        and ", ""),
            ("and after.pmi_arrival == NEVER and not after.vector_pending and not after.pmi_requested", ""),
            ("and not after.nmi_pending\n        and not after.reprogram", ""),
            ("        and memcmp(m.vcpu, after.vcpu, SLOTS * sizeof(vcpu_counter_t)) == 0\n", ""),
            (
                "        and memcmp(m.guest_event, after.guest_event, MAX_GUEST_EVENTS * sizeof(guest_event_t)) == 0\n",
                "",
            ),
            ("        and memcmp(m.host_event, after.host_event, MAX_HOST_EVENTS * sizeof(host_event_t)) == 0\n", ""),
            ("        and memcmp(&m.pmi, &after.pmi, sizeof(pmi_tally_t)) == 0\n", ""),
        ),
        TO_COME,
    ),
    ("summary: PMI tallies", without("        and memcmp(&m.pmi, &after.pmi, sizeof(pmi_tally_t)) == 0\n"), TO_COME),
    (
        "summary: creations",
        without("        and m.creates == after.creates\n"),
        "an event is in another place then",
    ),
    (
        "blocking always skipped",
        (("index >= lazy.kinds if traced else e.idle != 0,", "False,"),),
        "",
    ),
    ("blocking of one cycle: counted twice", without("    s.clock[IDLE] -= idle\n"), ""),
    (
        "refused fastpaths: overlap",
        (("return m.cost[COST_FASTPATH_REFUSED] if e.kind == FASTPATH else 0", "return 0"),),
        "",
    ),
    (
        "userspace handling by the monitor",
        (("        return m.cost[COST_HANDLING_KERNEL]", "        return 0"),),
        "",
    ),
    (
        "guest's own instructions in budget",
        ((", m.counting_instructions | m.ideal_instructions, &budget)", ", m.counting_instructions, &budget)"),),
        "",
    ),
    (
        "part of what is left for instructions",
        (("min(_kept_for_emulated(m, need, rate), budget[0])", "min(need, budget[0])"),),
        "the rest is only for speed",
    ),
    ("folding: one too many", (("e.perf.count + n) & mask", "e.perf.count + n + (n > 1)) & mask"),), ""),
    (
        "folding: at the end of the jump",
        (("_run_to(m, course.folded)", "_run_to(m, course.work)"),),
        ANYWHERE,
    ),
    ("folding: where the jump begins", (("at.folded = work if k.folds else at.folded", "pass"),), ANYWHERE),
    (
        "folding: regular exits",
        without("            if k.folds:\n                at.folded = max(at.folded, instant)\n"),
        ANYWHERE,
    ),
    ("folding: period kept", without("            e.perf.period = sample_period(c.counter, mask)\n"), REFUSED),
    ("folding: count kept", without("            e.perf.count = 0\n"), REFUSED),
    ("folding: other events stay", (("        if slots >> e.guest_slot & 1:\n", "        if True:\n"),), REFUSED),
    ("folding: too near to the wrap", (("<uint64_t>m.least_period + 8 if m.backed", "0 if m.backed"),), ""),
    ("folding: room of waiting events", (("most = min(most, room - min(room, kept_free(m)))", "pass"),), ""),
    (
        "folding: which sets mix",
        without("    if folds[0] and lazy.folds and s.reprogrammed != lazy.reprogrammed:\n        return False\n"),
        "",
    ),
    ("folding: blocking alone", (("s.reprogrammed != 0 or (blocks and m.backed)", "s.reprogrammed != 0"),), REFUSED),
    ("folding: chunks of traces", without("        course.folded = work\n"), ANYWHERE),
    ("chunks: refused fastpaths", (("running -= trace.chunk_within[at + i]", "pass"),), ""),
    ("chunks: within the bounds", without("        s.within += trace.chunk_within[at + i]\n"), ""),
    ("chunks: blocking", (("course.idle + trace.chunk_idle[first // CHUNK]", "course.idle"),), ""),
    ("chunks: the first gap in full", ((" - (<uint64_t>trace.gap[first] - left)", ""),), ""),
    ("chunks: which exits block", (("return kind + (lazy.kinds if idle else 0)", "return kind"),), ""),
    (
        "states: any other",
        (
            (
                "        if memcmp(&lazy.found, &lazy.held[i].key",
                "        if True or memcmp(&lazy.found, &lazy.held[i].key",
            ),
        ),
        "",
    ),
    ("states: what folds in them", without("    lazy.held[lazy.present].folds = lazy.folds\n"), ""),
    ("states: what they reprogram", without("    lazy.held[lazy.present].reprogrammed = lazy.reprogrammed\n"), ""),
    ("states: given up, known", without("    lazy.held[lazy.present].key = lazy.found\n    _know_nothing(lazy)\n"), ""),
    ("folding: reprogrammings", without("    m.reprograms += n * s.reprograms\n"), ""),
    ("regular: pending exit not put back", without("    stream.count[stream.pending] -= 1\n"), ""),
    ("occurrences beside the mean", ((f"over = {OVER}", "over = 0"),), AHEAD),
    ("occurrences beside the mean: one an activity", ((f"over = 3 + {OVER[4:]}", f"over = {OVER[4:]}"),), AHEAD),
    ("occurrences beside the mean: many a cycle", ((f"over = {OVER}", "over = 3"),), AHEAD),
    (
        "mean rate: shares exchanged",
        (
            (
                "p.user_rate * p.user_share + <uint128_t>p.kernel_rate * kernel_share",
                "p.kernel_rate * p.user_share + <uint128_t>p.user_rate * kernel_share",
            ),
        ),
        "",
    ),
    ("mean rate: rounded down", (("kernel_share) >> 32) + 1", "kernel_share) >> 32)"),), AHEAD),
    ("venture: work not compared", without("end.work < end.most_work and "), ""),
    ("venture: running not compared", without("end.running < end.most_running and "), ""),
    ("venture: end not compared", without(" and end.running + end.idle < end.end"), ""),
    (
        "venture: generator not put back",
        ((f"{BACK}\n            return", f"{BACK_BUT_GENERATOR}\n            return"),),
        "",
    ),
    ("venture: gap not put back", ((f"{BACK}\n            return", f"{BACK_BUT_LEFT}\n            return"),), ""),
    ("venture: kind not put back", ((f"{BACK}\n            return", f"{BACK_BUT_KIND}\n            return"),), ""),
    ("venture: counts not put back", without(" if fits else 0"), ""),
    ("venture: counts not begun anew", without("            lazy.drawn[i] = 0\n"), ""),
    ("venture: first exit not counted", without("        lazy.kind[kind].skipped += fits\n"), ""),
    ("venture: first exit takes no time", (("usable = _charge(lazy, &end, kind, 1)", "usable = 1 << SKIPPABLE"),), ""),
    ("venture: exits that cannot be skipped", without("usable == 1 << SKIPPABLE and "), ""),
    (
        "venture: no end to those",
        (("min(2 * lazy.next_wary + 1, LONGEST_WARY) if usable >> EVENTFUL & 1 else 0", "0"),),
        "only for speed",
    ),
    (
        "venture: kinds that fold",
        (("    if lazy.folds:\n        return 0\n    if lazy.wary", "    if lazy.wary"),),
        ANYWHERE,
    ),
    ("within: folded not kept", (("folded = work if k.folds else folded", "pass"),), ANYWHERE),
    ("within: as far as the horizon", (("if takes >= room:", "if takes > room:"),), ""),
    (
        "within: work not compared",
        (("min(_up_to(course.most_work, course.work), _up_to(course.most_running,", "(_up_to(course.most_running,"),),
        "",
    ),
    (
        "within: running not compared",
        (("course.work), _up_to(course.most_running, course.running))", "course.work), NEVER)"),),
        "",
    ),
    ("within: end not compared", (("min(room, _up_to(course.end, course.running + course.idle))", "room"),), ""),
    ("within: idling runs", (("+= before - room - idle", "+= before - room"),), ""),
    ("hosted: host-mode code not counted", without("        count_host_time(m, a, cycles)\n"), ""),
    (
        "hosted: wraps in host mode",
        (("course.end = min(course.end, course.running + course.idle + horizon)", "pass"),),
        "",
    ),
    ("hosted: code that counts in two ways", (("        m.modes.uneven = True\n", "        pass\n"),), REFUSED),
    ("hosted: code with other registers", without(" or not _counts_as(m, m.modes.origin)"), ""),
    (
        "hosted: other kinds of exits",
        (("lazy.trial = lazy.held[lazy.present].modes", "lazy.trial = lazy.held[15].modes"),),
        "",
    ),
    ("hosted: user space", (("s.bound if s.refused or e.kind == USERSPACE", "s.bound if s.refused"),), ""),
    ("hosted: too near to a wrap for a copy", (("after.wall - m.wall >= LEAST_ROOM", "False"),), AHEAD),
    (
        "hosted: a thread that sleeps",
        (("mode.blind, mode.asleep\n        m.clock", "mode.blind, False\n        m.clock"),),
        "nothing counts while the CPU idles",
    ),
    (
        "hosted: the window",
        (
            (
                "mode.global_ctrl, mode.blind, mode.asleep\n        m.clock",
                "mode.global_ctrl, False, mode.asleep\n        m.clock",
            ),
        ),
        REFUSED,
    ),
    (
        "hosted: where events are",
        (("    if m.backed or m.has_host:\n", "    if m.backed:\n"),),
        "selectors change with them",
    ),
    (
        "hosted: throttled events",
        without("            key.throttled |= <uint32_t>m.host_event[i].throttled << i\n"),
        "their selectors are off",
    ),
    ("hosted: NMI that waits", without(" and not m.host_nmi_pending"), "the host takes it before guest code runs"),
    ("key: marks of the attempt before", without("    key.paused = 0\n"), ""),
)

#: The same of the instant before which nothing is due.
CLOCK_MUTANTS: tuple[tuple[str, tuple[tuple[str, str], ...], str], ...] = (
    ("due: PMI", without("        m.due = min(m.due, m.pmi_arrival)\n"), ""),
    ("due: guest's timers", without("    m.due = min(m.due, m.next_timer)\n"), ""),
    ("due: host's tick", without("            m.due = min(m.due, m.next_tick)\n"), ""),
    ("due: first rotation", without("\n        m.due = min(m.due, m.next_mux)"), ""),
    ("due: next rotation", without("\n    m.due = min(m.due, m.next_mux)"), ""),
    ("due: end of the turn", without("    m.due = min(m.due, m.preempt_at)\n"), ""),
    ("due: what the thread before left", (("    m.due = 0\n    m.pmi_arrival", "    m.pmi_arrival"),), ""),
    ("due: first turn", without("    seat.m.due = 0\n"), ""),
    ("due: read-out of the next", (("    m.due = 0\n    m.stopped", "    m.stopped"),), ""),
    ("due: goes on", (("    m.yielded = False\n    m.due = 0\n", "    m.yielded = False\n"),), ""),
    ("due: filter", (("else min(first, m.filter_due)", "else first"),), ""),
    ("due: in the last cycle", (("m.wall + cycles < m.due", "m.wall + cycles <= m.due"),), ""),
    ("due: now", (("if cycles == 0 and m.wall < m.due:", "if cycles == 0:"),), ""),
    ("due: in an exit", (("(m.wall >= m.due or m.vector_pending)", "m.vector_pending"),), ""),
    ("due: vector pending in guest code", (("not (m.vector_pending or m.nmi_pending", "not (m.nmi_pending"),), ""),
    ("due: NMI pending in guest code", (("not (m.vector_pending or m.nmi_pending", "not (m.vector_pending"),), ""),
    (
        "vcpus: blocking that lets others run",
        without("    if blocks and m.shares:\n        return False  # another vCPU gets the time\n"),
        "",
    ),
    ("due: stopped", (("m.nmi_pending or m.stopped)", "m.nmi_pending)"),), ""),
)

#: The same of trapped accesses.
MEMO_MUTANTS: tuple[tuple[str, tuple[tuple[str, str], ...], str], ...] = (
    ("memo: what is due in the exit", (("m.wall + p.takes >= m.due or not", "not"),), ""),
    ("memo: counters that wrap or cease to be zero", without(" or not _far_from_zero(m, p)"), ""),
    ("memo: guest code in between", (("m.hardware.global_ctrl and (", "False and ("),), BETWEEN),
    ("memo: values", without(" and p.value == a.value"), ""),
    ("memo: slots", without(" and p.slot == a.slot"), ""),
    ("memo: states", (("if memcmp(&t.key[t.bucket[i]], key, sizeof(state_key_t)) == 0:", "if True:"),), ""),
    ("memo: PMI in flight", without(" and m.pmi_arrival == NEVER"), "its arrival is due"),
    ("memo: writes to counters", without(" or a.access == ACCESS_COUNTER"), HANDLER),
    ("memo: direct accesses", (("if not _keeps_state(m, a):", "if False:"),), HANDLER),
    ("memo: exits between", without("    m.at_state = NO_STATE\n"), ""),
    ("memo: tallies", without("    p.uses += 1\n"), ""),
    ("memo: event filter", without("    key.next_filter = m.next_filter\n"), ""),
    (
        "memo: before the first step",
        (("start_first(&self.cpu)\n        self._settle()\n", "start_first(&self.cpu)\n"),),
        "",
    ),
    ("memo: without a trial", (("p.usable = _same(t.trial, m) and", "p.usable ="),), HANDLER),
)

NOTHING = "nothing was changed"
#: Sources, the tests that should notice, mutants.
TABLES = ((SOURCES, TESTS, MUTANTS), (CLOCKS, CLOCK_TESTS, CLOCK_MUTANTS), (MEMOS, MEMO_TESTS, MEMO_MUTANTS))
FILES = tuple(dict.fromkeys(SOURCES + CLOCKS + MEMOS))
MODULES = tuple(name.removesuffix(".pyx") for name in FILES if name.endswith(".pyx"))


def mutate(texts: dict[str, str], changes: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Change the sources; an error if none has what is to be changed any more."""
    for old, new in changes:
        if not any(old in text for text in texts.values()):
            raise SystemExit(f"no source has {old!r} any more: bring the table up to date")
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
    original = {name: (ROOT / CORE / name).read_text() for name in FILES}
    chosen = []
    for sources, tests, mutants in TABLES:
        made = [(name, mutate({key: original[key] for key in sources}, changes), why) for name, changes, why in mutants]
        made = [mutant for mutant in made if not words or any(word in mutant[0] for word in words)]
        chosen += [(tests, *mutant) for mutant in [("none", {}, NOTHING), *made]] if made else []
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
    for tests, name, changed, equivalent in chosen:
        start = time.monotonic()
        for source, text in (original | changed).items():
            if (tree / CORE / source).read_text() != text:
                (tree / CORE / source).write_text(text)
        if call(["ninja", "-C", str(build), *MODULES], tree, log):
            raise SystemExit(f"{name}: could not be built, see {log}")
        for built in MODULES:
            for module in (build / "out").glob(f"{built}.*.so"):
                shutil.copy(module, site / "vpmu_core")
        test = [sys.executable, "-c", RUN, str(site), "-q", "-x", "--tb=line", "-p", "no:cacheprovider", *tests]
        status = call(test, tree, log, HYPOTHESIS_PROFILE="mutants", VPMU_DIFFERENCES=str(place / "differences" / name))
        if status not in (0, 1, 124):
            raise SystemExit(f"{name}: the tests could not be run, see {log}")
        if not status and not equivalent:
            survivors += 1
        if status and not changed:
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
