"""Every design with every option, from the registry; and plans directed at what uniform ones meet once in 20,000.

Directed means: counters that start within a few thousand of zero, of their wrap or of what the host leaves in a
register; rates and shares of nothing, of next to nothing and of all; a skid longer than an exit; exits without a gap,
without cost; host interrupts that take longer than their period; clocks up to the end of a machine's range.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np
from hypothesis import strategies as st

import vpmu
from vpmu._plan import Plan, PlannedAccess, PlannedExit, PlannedGuestEvent, PlannedHostEvent, Stream, Trace
from vpmu._scenario import MAX_CYCLES, plan

CPUS = ("emeraldrapids", "icelake", "skylake")
#: With PerfMonV2 and before.
AMD_CPUS = ("genoa", "rome")
#: Linux arms a counting event at -(2**47 - 1), in guest and host: that is what the host leaves in a register.
LONGEST = (1 << 47) - 1
#: Options of a design whose values no error lists, such as numbers: a few values to try.
OPTION_VALUES: dict[tuple[str, str], tuple[str, ...]] = {}
FULL = 0xFFFFFFFF
#: Codes of perf's events, and the index of what they count.
CODES = {0xC0: 0, 0x3C: 1, 0x13C: 3, 0x4F2E: 4, 0x412E: 5, 0xC4: 6, 0xC5: 7}
AMD_CODES = {0xC0: 0, 0x76: 1, 0xFF60: 4, 0x964: 5, 0xC2: 6, 0xC3: 7}
FIXED = {32: (0xC0, 0), 33: (0x3C, 1), 34: (0x300, 2), 35: (0x1A4, 8)}


def codes_of(cpu: vpmu.CpuModel) -> dict[int, int]:
    """Codes of its events, and the index of what they count."""
    if cpu.vendor == "intel":
        return CODES
    return AMD_CODES | ({0x1_00000120: 2} if "zen4" in cpu.features else {})


def code_of(cpu: vpmu.CpuModel, event: int) -> int:
    """The code of an event by its index."""
    return next(code for code, index in codes_of(cpu).items() if index == event)


def cpus_for(spec: str) -> tuple[str, ...]:
    """CPUs to try a design on: AMD's where it can be had."""
    made = vpmu.design(spec)
    amd = [name for name in AMD_CPUS if not made.refusal(vpmu.cpu(name), (), False)]
    if getattr(made, "sequence", "") not in ("", "linux-7.0"):
        amd = []  # other sequences are for Intel's registers
    return (*CPUS, *amd, *amd[:1])


def values(name: str, field: dataclasses.Field[object]) -> tuple[str, ...]:
    """What an option of a design may be."""
    if (name, field.name) in OPTION_VALUES:
        return OPTION_VALUES[name, field.name]
    if isinstance(field.default, bool):
        return ("true", "false")
    try:
        vpmu.design(f"{name},{field.name}=?")
    except vpmu.UnknownName as error:
        known = str(error).rpartition("known: ")[2].split(", ")
        # The sequence of another vendor's registers is the default there.
        return tuple(value for value in known if field.name != "sequence" or not value.endswith("-amd"))
    raise RuntimeError(f"say in OPTION_VALUES what to try for {field.name} of {name}")


def options(name: str) -> dict[str, tuple[str, ...]]:
    """Options of a design with their values, the default first."""
    found = {}
    for field in dataclasses.fields(vpmu.design(name)):  # type: ignore[arg-type]  # every design is a dataclass
        if field.name == "event_filter":  # plans draw filters of their own
            continue
        default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        others = [value for value in values(name, field) if value != default]
        found[field.name] = (default, *others)
    return found


def one_by_one() -> tuple[str, ...]:
    """Each design, and each with one option changed."""
    specs = []
    for name in vpmu.designs():
        specs.append(name)
        specs += [f"{name},{key}={value}" for key, known in options(name).items() for value in known[1:]]
    return tuple(specs)


def all_designs() -> tuple[str, ...]:
    """Each design with all combinations of its options."""
    specs = []
    for name in vpmu.designs():
        known = options(name)
        for chosen in itertools.product(*known.values()):
            specs.append(",".join([name, *(f"{key}={value}" for key, value in zip(known, chosen, strict=True))]))
    return tuple(specs)


@functools.cache
def base(design: str, cpu: str) -> Plan:
    """What a design is on a CPU; exits, events and figures are replaced."""
    return plan(vpmu.Scenario(cpu=cpu, design=design, workload="fio-4k-read", guest_perf=(), seconds="0.0001"))


def periods(theme: str) -> st.SearchStrategy[int]:
    """Counting; near zero, wrap and the host's leftover: what a counter starts with is minus its period."""
    leftover = st.integers(LONGEST - 3000, LONGEST)
    if theme == "far":
        return st.just(0) | leftover | st.integers((1 << 40) - 3000, 1 << 44)
    if theme == "wall":
        return st.just(0) | leftover
    if theme == "late":
        return st.integers(5000, 100_003)
    if theme == "sparse":
        return st.integers(1, 5)
    if theme == "reprogrammed":
        return st.just(0) | st.integers(200, 600) | st.integers(600, 9000) | st.just(100_003) | leftover
    return st.sampled_from([0, 1, 2, 3]) | st.integers(1, 3000) | st.sampled_from([5003, 100_003]) | leftover


@st.composite
def guest_events(draw: st.DrawFn, planned: Plan, theme: str) -> tuple[PlannedGuestEvent, ...]:
    guest = planned.guest_cpu
    codes = codes_of(planned.cpu)
    places = [i for i in range(8) if guest.gp_mask >> i & 1] + [32 + i for i in range(4) if guest.fixed_mask >> i & 1]
    chosen = draw(st.lists(st.sampled_from(places), unique=True, max_size=7 if theme == "reprogrammed" else 5))
    emulated = theme == "emulated"
    if emulated:  # instructions at least, which the hypervisor's emulation takes to their wrap
        place = draw(st.sampled_from([0, 32])) if 32 in places else 0
        chosen = [place, *(other for other in chosen[:2] if other != place)]
    if theme == "lost":
        chosen = [0, 1]
    if theme == "handled":
        chosen = chosen or [0]
    longest = LONGEST if guest.full_width_writes else (1 << 31) - 1
    events = []
    for place in chosen:
        code = draw(st.sampled_from(sorted(codes)))
        if theme == "reprogrammed" and draw(st.booleans()):
            code = 0xC0
        code, event = (code, codes[code]) if place < 32 else FIXED[place]
        user, kernel = draw(st.sampled_from([(True, True), (True, False), (False, True)]))
        period = min(draw(periods(theme)), longest)
        if emulated and place == chosen[0]:
            code, event, user, kernel = 0xC0, 0, True, True
            period = draw(st.integers(1, 300) | st.integers(300, 3000))
        if theme == "handled":
            # Far more than a handler takes, so that one is like the other.
            each = 1 if planned.costs["vm_exit"] < 3 else 20
            period = each * draw(st.integers(1000, 9000)) if place == chosen[0] or draw(st.booleans()) else 0
        if theme == "hosted":
            period = draw(st.sampled_from([0, 0, 300_000]))
        if theme == "lost":
            # Cycles sample; instructions are those of the handler's trapped accesses alone.
            first = place == chosen[0]
            code, event, user, kernel = (code_of(planned.cpu, 1), 1, True, True) if first else (0xC0, 0, True, True)
            period = draw(st.integers(1000, 5000) if first else st.integers(3, 60))
        selector = code | user << 16 | kernel << 17 | 1 << 20
        events.append(PlannedGuestEvent(event, selector, place, user, kernel, period))
    return tuple(events)


@st.composite
def host_events(
    draw: st.DrawFn, planned: Plan, ceded: bool, numbers: tuple[int, ...], sampling: bool
) -> tuple[PlannedHostEvent, ...]:
    events = []
    codes = codes_of(planned.cpu)
    for _ in range(draw(st.sampled_from(numbers))):
        code = draw(st.sampled_from(sorted(codes)))
        user, kernel = draw(st.sampled_from([(True, True), (True, False), (False, True)]))
        side = draw(st.sampled_from([(True, False), (True, False), (False, True), (False, False)]))
        gp = 0 if ceded else draw(st.sampled_from([planned.cpu.gp_mask, 0x3, 0x1]))
        fixed = 0 if ceded else {0xC0: 1, 0x3C: 2}.get(code, 0) & planned.cpu.fixed_mask
        how: tuple[int, ...] = ()
        if sampling:
            period = draw(st.sampled_from([0, 0, 100_000, 400_000, 3_000_000]))
            freq = draw(st.sampled_from([0, 0, 1000])) if period else 0
            how = (*(draw(st.booleans()) for _ in range(2)), period, freq, draw(st.booleans()))
        events.append(PlannedHostEvent(codes[code], code, gp, fixed, user, kernel, *side, *how))
    return tuple(events)


def from_zero(draw: st.DrawFn, planned: Plan) -> tuple[PlannedAccess, ...]:
    """Software of the guest that enables counters where they are: at zero, which perf never does."""
    guest = planned.cpu if planned.owns_hardware else planned.guest_cpu
    codes = draw(st.lists(st.sampled_from(sorted(codes_of(planned.cpu))), min_size=1, max_size=2))
    steps = [PlannedAccess(0, "selector", slot, code | 0x43 << 16) for slot, code in enumerate(codes)]
    if guest.vendor == "intel" or guest.version >= 2:
        steps.append(PlannedAccess(0, "global_ctrl", 0, guest.gp_mask))
    return tuple(steps)


def arrivals(draw: st.DrawFn, gap: int, slots: tuple[int, ...]) -> Stream:
    """Exits with a mean gap, drawn or regular; 0: none."""
    if not gap:
        return Stream(0, (FULL,) * len(slots), tuple(range(len(slots))), slots)
    threshold = tuple(draw(st.sampled_from([0, 1, 1 << 27, 1 << 31, FULL])) for _ in slots)
    alias = tuple(draw(st.integers(0, len(slots) - 1)) for _ in slots)
    rates: tuple[int, ...] = ()
    if draw(st.booleans()):
        rates = tuple(-(-(1 << 48) // max(1, gap + draw(st.integers(-1, 2)))) for _ in slots)
    return Stream(gap, threshold, alias, slots, rates)


def replayed(draw: st.DrawFn, gap: int, kinds: int, far: bool) -> Trace:
    n = draw(st.integers(1, 200))
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    repeat = draw(st.booleans()) and not far
    idle = draw(st.sampled_from([0, 0, 3, 5000]))
    return Trace(
        gap=random.integers(1 if repeat else 0, 2 * gap + 2, n),
        kind=random.integers(0, kinds, n).astype(np.uint16),
        handling=random.integers(0, draw(st.sampled_from([1, 3, 3000, 40_000])), n),
        idle=np.where(random.random(n) < 0.2, idle, 0),
        repeat=repeat,
    )


#: What a directed plan is directed at: anything; clocks near the end of their range; instructions that the hypervisor
#: emulates up to a wrap; counters that stay zero for long; exits that end in the cycle of a host interrupt; PMIs that
#: are lost because the handler's own accesses overflow a counter before LVTPC is unmasked, so that STATUS stays set;
#: PMIs that arrive in the exit after their overflow; exits that have the events behind guest counters reprogrammed; the
#: guest's handler again and again, whose accesses are trapped; many exits beside events of the host's.
THEMES = ("any", "far", "emulated", "sparse", "wall", "lost", "late", "reprogrammed", "handled", "hosted")


@st.composite
def directed_plans(
    draw: st.DrawFn, theme: str = "any", short: bool = False, designs: tuple[str, ...] = (), cpus: tuple[str, ...] = ()
) -> Plan:
    """Plans at the edges; ``short`` ones are over before the slow machine becomes slow."""
    backing = tuple(spec for spec in all_designs() if vpmu.design(spec).backed_by_host_events)
    trapping = tuple(spec for spec in all_designs() if spec not in backing and vpmu.design(spec).has_host)
    # Where not all exits take the host's events out and in.
    beside = ("none", "none", *backing, *(spec for spec in all_designs() if "=run-loop,sequence=linux-7.0," in spec))
    themed = {"reprogrammed": backing, "handled": trapping, "hosted": beside}
    spec = draw(st.sampled_from(designs or themed.get(theme, all_designs())))
    planned = base(spec, draw(st.sampled_from(cpus or cpus_for(spec))))
    design = vpmu.design(spec)
    far, emulated, sparse, tight, lost, late, reprogrammed, handled, hosted_by = (theme == name for name in THEMES[1:])
    free = draw(st.sampled_from(["free", "free", "cheap"] if tight else ["free", "cheap", "usual", "usual"]))
    if handled or hosted_by:
        free = draw(st.sampled_from(["cheap", "usual", "usual"]))
    skid = draw(st.sampled_from([0, 0, 300] if handled else [0, 0, 1, 2, 300, 9000, 40_000]))
    if reprogrammed:
        skid = draw(st.sampled_from([0, 300, 9000]))
    if late:
        skid = draw(st.integers(1, 5000))
    wide = draw(st.sampled_from([0, 0, 1, 5000]))
    rate = st.sampled_from([0, 1, 1 << 18, 1 << 20, 1 << 31, 1 << 32, (1 << 32) + 1, 16 << 32])
    if sparse:
        rate = st.sampled_from([0, 1 << 16, 1 << 18, 1 << 20])
    alike = tuple(draw(rate) for _ in range(9))
    if late or handled:
        alike = (1 << 31, 1 << 32, *alike[2:])
    if lost:
        alike = (0, 1 << 32, *alike[2:])
    if reprogrammed:
        alike = tuple(draw(st.sampled_from([0, 1 << 18, 1 << 20, 1 << 26, 1 << 30])) for _ in range(9))
    if emulated:
        alike = (draw(st.sampled_from([0, 0, 1 << 18])), *alike[1:])
    other = tuple(draw(rate) for _ in range(9)) if not lost and draw(st.booleans()) else alike
    costs = {
        name: 0 if free == "free" else draw(st.sampled_from([0, 1, 2])) if free == "cheap" else value
        for name, value in planned.costs.items()
    }
    # The last, where it is rare, makes exits that seemed to fit go beyond a horizon.
    times = [0, 0, 1, 300, 3000, 40_000] if free != "free" else [0, 0, 1]
    gaps = (
        [0, 1 << 28, 1 << 33]
        if far
        else [1, 2, 17]
        if tight
        else [17, 100]
        if lost
        else [700, 4000]
        if late or handled or hosted_by
        else [1, 1, 2, 17, 700, 4000]
    )
    gap = draw(st.sampled_from([0, *gaps] if theme in ("any", "sparse") else gaps))
    walls = [0, 0, 17, 500, 9000]
    if far:
        walls = [0, 1 << 35]
    elif tight:
        walls = [500, 2000]
    elif lost or late:
        walls = [0]
    elif reprogrammed or handled or hosted_by:
        walls = [0, 30_000]
    wall_gap = draw(st.sampled_from(walls))
    # All or none: with one that does, nothing else can be skipped for long.
    emulates = emulated or (
        not (lost or late) and draw(st.sampled_from([True, False, False, False] if hosted_by else [True, False]))
    )
    kinds = tuple(
        PlannedExit(
            f"KIND{i}",
            draw(st.integers(0, 2)),
            draw(st.sampled_from([0, 3])),
            draw(st.sampled_from([True, True, False])) if reprogrammed else emulates,
            draw(st.sampled_from(times)),
            draw(st.sampled_from([0, 0, 0, 3, 5000])),
        )
        for i in range(2)
    )
    tick = draw(st.sampled_from([0, 1, 100, wall_gap + 1 if not far else 3000, 2 * wall_gap if not far else 1 << 30]))
    kinds = (*kinds, PlannedExit("TICK", 1, 0, False, tick, 0))
    # Many exits, and no host events, beside which less is skipped.
    lazy_matters = reprogrammed or emulated or sparse or tight or lost or late or handled or hosted_by
    exits = draw(st.sampled_from([0, 1, 3, 30] if short else [300, 3000] if lazy_matters else [1, 30, 300, 3000]))
    each = max(gap, 1) + (4000 if free == "usual" else 4)
    hosted = design.has_host
    trace = replayed(draw, gap, 2, far) if hosted and draw(st.sampled_from([False, False, True])) else None
    planned = dataclasses.replace(
        planned,
        cpu=dataclasses.replace(planned.cpu, skid=vpmu.Skid(skid, skid + wide)),
        end=min(draw(st.integers(-3, 3)) + 4 + exits * each, MAX_CYCLES - 1) if not far else MAX_CYCLES - 1,
        user_share=draw(st.sampled_from([0, 1, 1 << 31, FULL, 1 << 32])),
        rates=(alike, other, alike, alike, alike, other, (0,) * 9),
        costs=costs,
        exits=kinds,
        work=arrivals(draw, gap * hosted, (0, 1)),
        wall=arrivals(draw, wall_gap * hosted, (2,)),
        trace=trace,
        seeds={name: (draw(st.integers(0, 2**64 - 1)), 7, i) for i, name in enumerate(("work", "wall", "skid"))},
    )
    numbers = (1, 1, 3) if hosted_by else () if lazy_matters else (0, 0, 0, 1, 3, 6)
    if hosted and numbers:
        planned = dataclasses.replace(
            planned,
            host_events=draw(host_events(planned, design.cedes_pmu, numbers, hosted_by)),
            mux_interval=draw(st.sampled_from([50_000, 2_000_000])),
            tick=draw(st.sampled_from([100_000, 2_000_000])),
        )
    if sparse and design.has_guest_pmu and draw(st.booleans()):
        return dataclasses.replace(planned, guest_events=(), program=from_zero(draw, planned))
    if reprogrammed and draw(st.booleans()):
        # Too few counters for all instructions: an event waits whose counter is advanced all the same.
        few = (planned.gp_constraint[0] & draw(st.sampled_from([0x0, 0x1])), *planned.gp_constraint[1:])
        planned = dataclasses.replace(planned, gp_constraint=few)
    return dataclasses.replace(planned, guest_events=draw(guest_events(planned, theme)) if design.has_guest_pmu else ())


@st.composite
def horizon_plans(draw: st.DrawFn) -> Plan:
    """Drawn exits up to a thousand horizons, each some tens or hundreds of exits after the one before.

    Exits are skipped in batches that fit by what exits take on average; one in some hundred goes beyond its horizon.
    """
    spec = draw(st.sampled_from([spec for spec in all_designs() if not vpmu.design(spec).backed_by_host_events]))
    planned = base(spec, draw(st.sampled_from(cpus_for(spec))))
    hosted = vpmu.design(spec).has_host
    free = draw(st.booleans())
    gap = draw(st.sampled_from([3, 50, 400]))
    busy = draw(st.sampled_from([0, 1, 200]))
    idle = draw(st.sampled_from([0, 0, 0, 300]))
    # One of two kinds that takes long and is rare, or not.
    kinds = (
        PlannedExit("SHORT", draw(st.integers(0, 1)), draw(st.sampled_from([0, 3])), False, busy, idle),
        PlannedExit("LONG", draw(st.integers(0, 2)), 0, False, draw(st.sampled_from([busy, 3000])), 0),
        PlannedExit("TICK", 1, 0, False, 1, 0),
    )
    rare = draw(st.sampled_from([0, 1 << 27, 1 << 31]))
    rate = st.sampled_from([1 << 32, 1 << 31, 3 << 31, 5 << 32, (1 << 32) - 1])
    each = gap + busy + idle + (20 if free else 2500)
    horizon = each * draw(st.integers(20, 500))
    bound = draw(st.sampled_from(["counter", "host interrupts", "both"]))
    codes = codes_of(planned.cpu)
    code = draw(st.sampled_from(sorted(codes)))
    guest_event = PlannedGuestEvent(codes[code], code | 0x13 << 16, 0, True, True, max(1, horizon * gap // each))
    return dataclasses.replace(
        planned,
        end=500 * horizon,
        user_share=draw(st.sampled_from([0, 1 << 31, 3 << 30, 1 << 32])),
        rates=(*(tuple(draw(rate) for _ in range(9)) for _ in range(2)), *planned.rates[2:]),
        costs={name: 0 if free else value for name, value in planned.costs.items()},
        exits=kinds,
        work=Stream(gap * hosted, (FULL - rare, FULL), (1, 1), (0, 1), ()),
        wall=arrivals(draw, horizon * hosted * (bound != "counter"), (2,)),
        seeds={name: (draw(st.integers(0, 2**64 - 1)), 7, i) for i, name in enumerate(("work", "wall", "skid"))},
        guest_events=(guest_event,) if bound != "host interrupts" and vpmu.design(spec).has_guest_pmu else (),
    )
