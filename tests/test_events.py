"""Events of a CPU in perf's syntax, down to the bits of the selector: ``vpmu.event``."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vpmu
from vpmu._event_codes import PMU_EVENTS, code_mask, named_codes, selector_codes
from vpmu._event_syntax import NAMES, without_host_modifiers
from vpmu._events import CODES, EVENTS, allowed_counters, perf_codes
from vpmu._perf import parse_host_perf
from vpmu._registers import selector_legal

SKYLAKE = vpmu.cpu("skylake")
RAPIDS = vpmu.cpu("sapphirerapids")
V6 = dataclasses.replace(
    RAPIDS, name="v6", version=6, features=RAPIDS.features | {"eq", "umask2"}, architectural_events=0x1FFF
)
ATOM = dataclasses.replace(
    V6, name="atom", fixed_mask=0x77, perf_capabilities=RAPIDS.perf_capabilities & ~(1 << 15), constraints=()
)
AMD = dataclasses.replace(
    SKYLAKE,
    name="zen-four",
    vendor="amd",
    version=2,
    gp_mask=0x3F,
    fixed_mask=0,
    perf_capabilities=0,
    features=frozenset({"perfctr_core", "extended_event_select", "perfmon_v2_freeze", "svm", "zen4"}),
    quirks=frozenset(),
    possible_quirks=frozenset(),
    constraints=(),
)
MODES = 3 << 16


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cpu", [SKYLAKE, RAPIDS, V6, ATOM, AMD], ids=lambda cpu: cpu.name)
def test_every_name_of_a_cpu_is_its_code_and_back(cpu: vpmu.CpuModel) -> None:
    codes = perf_codes(cpu)
    assert set(selector_codes(cpu).values()) <= set(codes)
    for name, code in codes.items():
        spec = vpmu.event(name, cpu)
        assert (spec.text, spec.name, spec.selector) == (name, name, code | MODES)
        assert vpmu.event(f"r{code:x}", cpu) == dataclasses.replace(spec, text=f"r{code:x}")
        assert (spec.user, spec.kernel, spec.exclude_guest, spec.exclude_host) == (True, True, False, False)
    for name in set(filter(None, PMU_EVENTS)) - set(codes):
        with pytest.raises(vpmu.ScenarioError, match=f"{cpu.name} does not have {name}; it has instructions, cycles"):
            vpmu.event(name, cpu)


def test_perfs_pseudo_encodings_say_which_counter() -> None:
    assert vpmu.event("ref-cycles", SKYLAKE) == vpmu.EventSpec("ref-cycles", "ref-cycles", 0x30300, fixed=2)
    assert vpmu.event("slots", RAPIDS) == vpmu.EventSpec("slots", "slots", 0x30400, fixed=3)
    assert vpmu.event("r01a4", RAPIDS) == vpmu.EventSpec("r01a4", "slots", 0x301A4)
    assert vpmu.event("topdown-be-bound", RAPIDS).metric == 3
    assert vpmu.event("topdown-mem-bound", RAPIDS) == vpmu.EventSpec(
        "topdown-mem-bound", "topdown-mem-bound", 0x38700, metric=7
    )
    assert vpmu.event("r0700", ATOM).name == "topdown-retiring"
    assert vpmu.event("r0700", ATOM).fixed == 6
    with pytest.raises(vpmu.ScenarioError, match="skylake has no fixed counter 3"):
        vpmu.event("r0400", SKYLAKE)
    with pytest.raises(vpmu.ScenarioError, match="fixed counter 2 has no 'cmask'"):
        vpmu.event("cpu/event=0,umask=3,cmask=1/", SKYLAKE)
    with pytest.raises(vpmu.ScenarioError, match="PERF_METRICS has no 'edge'"):
        vpmu.event("cpu/event=0,umask=0x80,edge/", RAPIDS)
    assert vpmu.event("cpu/umask=3,any/", SKYLAKE).fixed == 2  # fixed counters have AnyThread
    # Without PERF_METRICS the code is one that nothing counts; without level 2 there are four fields.
    assert vpmu.event("r8000", SKYLAKE) == vpmu.EventSpec("r8000", None, 0x38000)
    level1 = dataclasses.replace(RAPIDS, features=RAPIDS.features - {"topdown_l2"})
    assert vpmu.event("r8300", level1).metric == 3
    assert vpmu.event("r8400", level1).metric is None


def test_aliases_and_near_misses() -> None:
    assert vpmu.event("cpu-cycles", AMD).name == "cycles"
    assert vpmu.event("branch-instructions:u", AMD).selector == 0x100C2
    assert vpmu.event("idle-cycles-frontend", AMD).name == "stalled-cycles-frontend"
    with pytest.raises(vpmu.UnknownName, match=r"did you mean .*topdown-fe-bound"):
        vpmu.event("topdown-fe-bnd", RAPIDS)


def test_names_that_have_only_a_code() -> None:
    milan = vpmu.cpu("milan")
    assert vpmu.event("ex_ret_ops", milan) == vpmu.EventSpec("ex_ret_ops", "ex_ret_ops", 0x300C1)
    assert vpmu.event("rc1", milan).name == "ex_ret_ops"
    assert vpmu.event("merge:k", milan).selector == 0xF_000200FF
    assert vpmu.event("ls_dispatch.ld_st_dispatch:uG", milan).selector == 0x100_00010429
    assert vpmu.event("fp_ret_sse_avx_ops.all", vpmu.cpu("turin")).selector == 0x30F03
    for text in ("mem_inst_retired.any", "MEM_INST_RETIRED.ANY", "cpu/event=0xd0,umask=0x83/"):
        assert vpmu.event(text, SKYLAKE) == vpmu.EventSpec(text, "mem_inst_retired.any", 0x383D0)


def test_names_that_have_only_a_code_belong_to_cpus() -> None:
    with pytest.raises(vpmu.ScenarioError, match="skylake does not have ex_ret_ops; it has instructions"):
        vpmu.event("ex_ret_ops", SKYLAKE)
    with pytest.raises(vpmu.ScenarioError, match=r"rome does not have ex_ret_ops; it has .*ex_ret_cops"):
        vpmu.event("ex_ret_ops", vpmu.cpu("rome"))
    with pytest.raises(vpmu.UnknownName, match="did you mean ex_ret_ops"):
        vpmu.event("ex_ret_opps", vpmu.cpu("milan"))


# -- codes and terms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpu", "text", "selector"),
    [
        (SKYLAKE, "cpu/event=0xc0,umask=0x1,cmask=2,inv,edge,any/", 0x02A701C0),
        (SKYLAKE, "cpu/event=192,umask=1,cmask=0x02,inv=1,edge=1,any=1/", 0x02A701C0),
        (SKYLAKE, "cpu/event=0xc0,inv=0,edge=0/", 0x000300C0),
        (SKYLAKE, "cpu/event=0xc0,in_tx,in_tx_cp/", 0x3_000300C0),  # in_tx_cp: counter 2 has it
        (SKYLAKE, "r38440d1", 0x038740D1),
        (V6, "cpu/event=0xc0,cmask=3,eq/", 0x10_030300C0),
        (V6, "cpu/event=0xd1,umask=0x1234/", 0x1200_000334D1),
        (AMD, "cpu/event=0x120,umask=1/", 0x1_00030120),
        (AMD, "cpu/event=0xfff,cmask=1,inv,edge/", 0xF_018700FF),
        (AMD, "r100000120", 0x1_00030120),
    ],
)
def test_terms_and_raw_codes_set_the_bits_that_linux_says(cpu: vpmu.CpuModel, text: str, selector: int) -> None:
    assert vpmu.event(text, cpu).selector == selector


def test_cmask_and_the_like_do_not_change_what_the_event_is() -> None:
    assert vpmu.event("cpu/event=0xc0,cmask=2,inv/", SKYLAKE).name == "instructions"
    assert vpmu.event("cpu/event=0x120,umask=1,edge/", AMD).name == "ref-cycles"
    assert vpmu.event("cpu/event=0xc0,umask=0x100/", V6).name is None
    assert vpmu.event("cpu/event=0xd1,umask=1/", SKYLAKE).name is None


@pytest.mark.parametrize(
    ("cpu", "text", "said"),
    [
        (SKYLAKE, "cpu/event=0xc0,eq/", "selectors of skylake have no bits 0x1000000000 \\('eq'\\)"),
        (SKYLAKE, "cpu/event=0xc0,pc/", "skylake have no bits 0x80000 \\('pc'\\)"),
        (RAPIDS, "cpu/event=0xc0,any/", "sapphirerapids have no bits 0x200000 \\('any'\\)"),
        (SKYLAKE, "cpu/event=0xc0,umask=0x100/", "umask 0x100 must fit 8 bits"),
        (V6, "cpu/event=0xc0,umask=0x10000/", "umask 0x10000 must fit 16 bits"),
        (AMD, "cpu/event=0x1000/", "event 0x1000 must fit 12 bits"),
        (AMD, "cpu/event=0xc0,any/", "term 'any' is not simulated; there are event, umask, edge, inv, cmask"),
        (SKYLAKE, "cpu/event=0xc0,period=100/", "term 'period' is not simulated; there are .*in_tx_cp, eq"),
        (SKYLAKE, "cpu/event=0xc0,name=x/", "term 'name' is not simulated"),
        (SKYLAKE, "cpu/event=0xc0,inv=2/", "inv 0x2 must fit 1 bit"),
        (SKYLAKE, "cpu/event=0xc0,cmask/", "'cmask' needs a number"),
        (SKYLAKE, "cpu/event=0xc0,edge=/", "'edge=' needs a number, such as edge=1"),
        (SKYLAKE, "cpu/event=0o17/", "needs a number"),
        (SKYLAKE, "cpu/event=1_0/", "needs a number"),
        (SKYLAKE, "cpu/event=1,event=1/", "given twice"),
        (SKYLAKE, "r4300c0", "bits 0x430000 of the selector are not the event's"),
        (AMD, "r10000000076", "bits 0x10000000000 of the selector are not the event's; choose modes by modifiers"),
        (SKYLAKE, "r8000000000000000", "no bits 0x8000000000000000$"),
        (SKYLAKE, "cpu/event=0xc0", "unknown event"),
        (SKYLAKE, "cycles:h", "h is a privilege level that x86 does not have"),
        (SKYLAKE, "cycles:pp", "p asks for PEBS"),
        (SKYLAKE, "cycles:D", "write :pinned"),
        (SKYLAKE, "cycles:S", "S reads groups"),
        (SKYLAKE, "cycles:", "modifier ''"),
        (SKYLAKE, "cpu/event=0xc0/uX", "modifier 'uX'"),
        (SKYLAKE, "cpu/event=0xc0/k:G", "modifier 'k:G' is not simulated .*without a colon"),
        (SKYLAKE, "cpu/event=0xc0/ k", "modifier ' k' is not simulated"),
        (SKYLAKE, "cpu/event=0xc0/:", "modifier '' is not simulated"),
        (SKYLAKE, "cycles:k:G", "modifier 'k:G' is not simulated .*without a colon"),
    ],
)
def test_what_a_cpu_does_not_have_is_refused_by_name(cpu: vpmu.CpuModel, text: str, said: str) -> None:
    with pytest.raises(vpmu.VpmuError, match=said):
        vpmu.event(text, cpu)


@given(st.integers(0, (1 << 64) - 1), st.sampled_from([SKYLAKE, RAPIDS, V6, ATOM, AMD]))
def test_a_raw_code_is_taken_if_a_selector_can_hold_it(bits: int, cpu: vpmu.CpuModel) -> None:
    own = 0x530000 | (0x300_00000000 if cpu.vendor == "amd" else 0)
    legal = 0
    for x in range(16):
        if cpu.gp_mask >> x & 1:
            legal |= selector_legal(cpu, x)
    if bits & (own | ~legal):
        with pytest.raises(vpmu.ScenarioError):
            vpmu.event(f"r{bits:x}", cpu)
    held = bits & legal & ~own | 1  # event select 0 has pseudo encodings
    spec = vpmu.event(f"r{held:x}", cpu)
    assert spec.selector == held | MODES
    names = {**selector_codes(cpu), **{code: name for name, code in named_codes(cpu).items()}}
    assert spec.name == names.get(held & code_mask(cpu))
    assert (spec.fixed, spec.metric) == (None, None)


# -- modes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modifiers", "user", "kernel", "exclude_guest", "exclude_host"),
    [
        ("u", True, False, False, False),
        ("k", False, True, False, False),
        ("ku", True, True, False, False),
        ("G", True, True, False, True),
        ("H", True, True, True, False),
        ("GH", True, True, False, False),
        ("uG", True, False, False, True),
        ("Hk", False, True, True, False),
    ],
)
@pytest.mark.parametrize("form", ["cycles:{}", "rc0:{}", "cpu/event=0xc0,cmask=1/{}"])
def test_modifiers_choose_modes(
    form: str, modifiers: str, user: bool, kernel: bool, exclude_guest: bool, exclude_host: bool
) -> None:
    for cpu in (SKYLAKE, AMD):
        spec = vpmu.event(form.format(modifiers), cpu)
        assert (spec.user, spec.kernel) == (user, kernel)
        assert (spec.exclude_guest, spec.exclude_host) == (exclude_guest, exclude_host)
        only = exclude_host << 40 | exclude_guest << 41 if cpu is AMD else 0
        assert spec.selector & 0x300_00030000 == only | user << 16 | kernel << 17


def test_without_extended_event_select_amd_cannot_tell_guest_from_host() -> None:
    old = dataclasses.replace(AMD, name="k-seven", features=frozenset())
    assert vpmu.event("cycles:u", old).selector == 0x10076
    with pytest.raises(vpmu.ScenarioError, match="k-seven cannot tell guest from host"):
        vpmu.event("cycles:G", old)
    with pytest.raises(vpmu.ScenarioError, match="have no bits 0x100000000 \\('event'\\)"):
        vpmu.event("cpu/event=0x120/", old)


# -- simulations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("topdown-retiring", "no rate is known"),
        ("lbr-inserts", "no rate is known"),
        ("ex_ret_ops", "no rate is known"),
        ("mem_inst_retired.any:u", "no rate is known"),
        ("r10000c0", "term 'cmask' is not simulated in a run: a workload says how often"),
        ("cpu/event=0xc0,edge/", "term 'edge' is not simulated in a run"),
        ("cpu/event=0xc0,umask=0,any/", "term 'any' is not simulated in a run"),
        ("rc0:G", "modifier 'G' is not simulated here; G and H are for host events"),
        ("cpu/event=0xc0/uH", "modifier 'uH'"),
    ],
)
def test_what_has_no_rate_is_refused_in_simulations(text: str, said: str) -> None:
    with pytest.raises(vpmu.ScenarioError, match=said):
        vpmu.parse_event(text)
    with pytest.raises(vpmu.ScenarioError, match=said):
        vpmu.PerfStat([text])


def test_terms_that_change_nothing_are_allowed_in_simulations() -> None:
    assert vpmu.parse_event("cpu/event=0xc0,cmask=0,inv=0/").name == "instructions"


@pytest.mark.parametrize(
    ("text", "event", "exclude_guest", "exclude_host"),
    [
        ("cycles:G", "cycles", False, True),
        ("cycles:H", "cycles", True, False),
        ("cycles:GH", "cycles", False, False),
        ("cycles:uG", "cycles:u", False, True),
        ("cpu/event=0xc0/Hk", "cpu/event=0xc0/k", True, False),
    ],
)
def test_host_events_take_guest_and_host_modifiers(
    text: str, event: str, exclude_guest: bool, exclude_host: bool
) -> None:
    made = vpmu.HostEvent(text)
    assert made == vpmu.HostEvent(event, exclude_guest=exclude_guest, exclude_host=exclude_host)
    assert parse_host_perf(f"{text}:pinned") == made
    assert parse_host_perf(str(made)) == made
    assert made.parsed.name == vpmu.parse_event(event).name


def test_host_modifiers_do_not_contradict_options() -> None:
    assert parse_host_perf("cycles:pinned:H:exclude_guest").exclude_guest
    with pytest.raises(vpmu.ScenarioError, match="together count nothing"):
        parse_host_perf("cycles:G:pinned:exclude_guest")
    with pytest.raises(vpmu.ScenarioError, match="modifier 'X'"):
        vpmu.HostEvent("cycles:X")


PIECES = st.lists(
    st.sampled_from([*NAMES, "event=0xc0", "umask=1", "cmask=2", "inv", "eq", "r00c0", "cpu/", *"/:,=rukGHp0{} \n"]),
    max_size=8,
).map("".join)


@given(PIECES)
def test_any_text_is_one_event_everywhere_or_one_of_our_errors(text: str) -> None:
    known = None
    with contextlib.suppress(vpmu.VpmuError):
        known = vpmu.parse_event(text)
    spec = None
    with contextlib.suppress(vpmu.VpmuError):
        spec = vpmu.event(text, RAPIDS)
    if known is not None:  # what simulations take, the CPU has
        assert spec is not None
        assert (spec.name, spec.user, spec.kernel) == (known.name, known.user, known.kernel)
    rest, exclude_guest, exclude_host = without_host_modifiers(text)
    if spec is not None:
        assert vpmu.event(rest, RAPIDS).selector == spec.selector
        assert (spec.exclude_guest, spec.exclude_host) == (exclude_guest, exclude_host)


# -- counters ---------------------------------------------------------------------------------------------------------


def linux_constraints(name: str, cpu: vpmu.CpuModel) -> tuple[int, int]:
    """Counters of perf's generic events on Intel: the rule written down once more."""
    fixed = {"instructions": 1, "cycles": 2, "ref-cycles": 4, "slots": 8}.get(name, 0) & cpu.fixed_mask
    if name in ("ref-cycles", "slots"):
        return 0, fixed
    if fixed:
        return cpu.gp_mask, fixed
    for row in cpu.constraints:
        if row.low <= CODES[name] & 0xFF <= row.high and row.umask in (None, CODES[name] >> 8):
            return cpu.gp_mask & row.gp_mask, cpu.fixed_mask & row.fixed_mask
    return cpu.gp_mask, 0


@pytest.mark.parametrize("cpu_name", ["skylake", "icelake", "sapphirerapids", "emeraldrapids"])
def test_counters_of_the_generic_events(cpu_name: str) -> None:
    cpu = vpmu.cpu(cpu_name)
    for name in EVENTS:
        assert allowed_counters(name, cpu) == linux_constraints(name, cpu)


def test_counters_of_the_other_events() -> None:
    assert allowed_counters("topdown-bad-spec", ATOM) == (ATOM.gp_mask, 1 << 4)
    assert allowed_counters("topdown-retiring", ATOM) == (ATOM.gp_mask, 1 << 6)
    assert allowed_counters("topdown-be-bound", ATOM) == (ATOM.gp_mask, 0)
    assert allowed_counters("lbr-inserts", ATOM) == (ATOM.gp_mask, 0)
    assert allowed_counters("topdown-retiring", RAPIDS) == (0, 0)  # PERF_METRICS
    assert allowed_counters("lbr-inserts", RAPIDS) == (0, 0)
    for name in ("instructions", "ref-cycles", "stalled-cycles-frontend"):
        assert allowed_counters(name, AMD) == (0x3F, 0)
    for name in ("slots", "bus-cycles", "topdown-retiring", "stalled-cycles-backend"):
        assert allowed_counters(name, AMD) == (0, 0)


def test_counters_of_names_that_have_only_a_code() -> None:
    milan = vpmu.cpu("milan")
    assert allowed_counters("ex_ret_ops", milan) == (0x3F, 0)
    assert allowed_counters("fp_ret_sse_avx_ops.all", milan) == (0x15, 0)  # the merge event beside it
    assert allowed_counters("merge", milan) == (0x2A, 0)
    assert allowed_counters("mem_inst_retired.any", RAPIDS) == (0xF, 0)
    assert allowed_counters("ex_ret_ops", RAPIDS) == (0, 0)


def test_amd_rows_match_twelve_bits() -> None:
    for low, counters in ((0x120, 0b100), (0x020, 0x3F)):
        row = vpmu.Constraint(low, low, None, 0b100, 0)
        assert allowed_counters("ref-cycles", dataclasses.replace(AMD, constraints=(row,))) == (counters, 0)


def test_specs_are_plain_values() -> None:
    spec: Any = vpmu.event("cycles", SKYLAKE)
    assert spec == vpmu.event("cycles", SKYLAKE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.selector = 0
