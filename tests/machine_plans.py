"""Plans of short runs, drawn at random or directed at what random ones meet once in thousands."""

from __future__ import annotations

import dataclasses

import numpy as np
from directed_plans import all_designs, code_of, codes_of, cpus_for, one_by_one
from hypothesis import strategies as st

import vpmu
from vpmu._plan import (
    ACCESSES,
    GuestKernel,
    Plan,
    PlannedAccess,
    PlannedExit,
    PlannedFilter,
    PlannedGuestEvent,
    PlannedHostEvent,
    Stream,
    Trace,
)
from vpmu._scenario import plan

DESIGNS = one_by_one()  # a new design or option is tested as soon as it is in the registry


def regular(n: int, gaps: list[int]) -> st.SearchStrategy[tuple[int, ...]]:
    """Rates of n slots with regular arrivals, or none."""
    rate = st.sampled_from(gaps).flatmap(lambda gap: st.integers((1 << 48) // (gap + 1), -(-(1 << 48) // gap)))
    return st.just(()) | st.tuples(*[rate] * n)


def guest_pmus(cpu: vpmu.CpuModel) -> st.SearchStrategy[vpmu.GuestPmu | None]:
    """What a guest has: on AMD also fewer counters, and no global registers where the host has them."""
    if cpu.vendor == "intel":
        return st.none()
    versions = st.integers(1, cpu.version)
    return st.none() | st.builds(vpmu.GuestPmu, versions, st.sampled_from([4, 6]), st.just(0))


@st.composite
def guest_clock(
    draw: st.DrawFn, events: list[PlannedGuestEvent], guest: vpmu.CpuModel, core_hz: int
) -> tuple[list[PlannedGuestEvent], GuestKernel]:
    """What a guest does by the clock: frequencies, turns on few counters, groups, tasks, watchdog, throttling."""
    hz = draw(st.sampled_from([0, 250, 250, 1000]))
    kernel = GuestKernel(
        core_hz,
        hz,
        draw(st.booleans()),
        draw(st.sampled_from([1, 4])),
        draw(st.sampled_from([0, 0, 3])),
        draw(st.sampled_from([0, 0, 150])),
        draw(st.booleans()) and draw(st.booleans()),
        draw(st.sampled_from([100_000, 1000, 1])),
    )
    if draw(st.booleans()):
        # Any counter, and more events than counters.
        gp = draw(st.sampled_from([guest.gp_mask, 0x3, 0x1]))
        shared = []
        for e in [*events, *events[: draw(st.integers(0, 4))]]:
            fixed = {0: 1, 1: 2, 2: 4, 8: 8}.get(e.event, 0) & guest.fixed_mask
            only_fixed = e.event in (2, 8)
            mask = 0 if only_fixed and fixed else draw(st.sampled_from([gp, gp, guest.gp_mask]))
            if only_fixed and not fixed:
                continue
            shared.append(dataclasses.replace(e, counter=-1, gp_mask=mask, fixed_mask=fixed))
        events = shared
    first = draw(st.integers(0, len(events)))  # a group of two starts here
    task, watchdog = draw(st.integers(0, 2)), draw(st.booleans())
    made: list[PlannedGuestEvent] = []
    for i, e in enumerate(events):
        frequency = draw(st.sampled_from([0, 400, 3000, 100_000])) if hz and e.period else 0
        leader = first if i == first + 1 and e.counter >= 0 else -1
        pinned = watchdog and i == 0 and e.period > 0 and e.counter >= 0
        mine = bool(task and i >= task and not pinned)
        if leader >= 0 and (made[first].pinned or made[first].task != mine):
            leader = -1
        made.append(
            dataclasses.replace(
                e,
                frequency=0 if pinned else frequency,
                leader=leader,
                pinned=pinned,
                task=mine,
                interval=draw(st.booleans()),
                reads_group=draw(st.booleans()),
            )
        )
    return made, kernel


@st.composite
def filters(
    draw, codes: list[int], end: int, vendor: str = "intel"
) -> tuple[PlannedFilter | None, tuple[tuple[int, PlannedFilter], ...]]:
    """An event filter or none, and changes of it at instants around the run's, often several in one exit."""
    if draw(st.booleans()):
        return None, ()
    code = st.sampled_from(codes or [0xC0]) | st.just(0)
    entry = st.builds(
        lambda code, mask, exclude: code & 0xF_0000_00FF | (code & mask << 8) | mask << 56 | exclude << 55,
        code,
        st.sampled_from([0xFF, 0xFF, 0, 1, 0x7C]),
        st.booleans(),
    )
    made = st.builds(
        lambda allow, entries, fixed: vpmu.EventFilter(
            int(not allow), entries, fixed, masked=True, vendor=vendor
        ).planned(),
        st.booleans(),
        st.lists(entry, max_size=4),
        st.integers(0, 15),
    )
    instants = draw(st.lists(st.sampled_from([0, 1, 2]) | st.integers(0, end + end // 4), max_size=5))
    return draw(st.none() | made), tuple((at, draw(made)) for at in sorted(instants))


@st.composite
def plans(
    draw,
    designs: tuple[str, ...] = (),
    cpus: tuple[str, ...] = (),
    tight: bool | None = None,
) -> Plan:
    """Random plans; a good part of them directed at edges: rate 0, share 0 and all, long skid, gap and cost 0."""
    design = draw(st.sampled_from(designs or all_designs()))
    if tight is None:
        tight = draw(st.booleans())  # costs and gaps of a few cycles, so that things happen in the same one
    cpu = vpmu.cpu(draw(st.sampled_from(cpus or cpus_for(design))))
    low, high = sorted(draw(st.tuples(*[st.sampled_from([0, 1, 2] if tight else [0, 1, 40, 600, 5000])] * 2)))
    cpu = dataclasses.replace(cpu, skid=vpmu.Skid(low, high))
    if design.startswith("mediated-semi"):
        cpu = dataclasses.replace(cpu, version=draw(st.sampled_from([2, 3, cpu.version])))
    base = plan(
        vpmu.Scenario(
            cpu=cpu,
            design=design,
            workload="fio-4k-read",
            guest_perf=(),
            seconds="0.0001",
            guest_pmu=draw(guest_pmus(cpu)),
        )
    )
    rate = st.sampled_from([0, 1 << 20, 1 << 31, 1 << 32, 5 << 32, 16 << 32]) | st.integers(0, 1 << 34)
    rates = (*(tuple(draw(rate) for _ in range(9)) for _ in range(6)), (0,) * 9)
    costs = {
        name: draw(st.sampled_from([0, 0, 1, 2] if tight else [value, value, 0, 1, 3 * value]))
        for name, value in base.costs.items()
    }
    kinds = tuple(
        PlannedExit(
            f"KIND{i}",
            draw(st.integers(0, 2)),
            draw(st.sampled_from([0, 3])),
            draw(st.booleans()),
            draw(st.sampled_from([0, 1, 2] if tight else [0, 300, 900, 30000])),
            draw(st.sampled_from([0, 0, 0, 3] if tight else [0, 0, 0, 5000])),
        )
        for i in range(3)
    )
    gap = st.sampled_from([1, 2, 3, 10] if tight else [0, 1, 700, 4000, 40000])
    full = 0xFFFFFFFF
    hosted = design != "bare-metal"
    work_rates = draw(regular(2, [1, 3, 10] if tight else [1, 700, 4000, 40000]))
    work = Stream(draw(gap) * hosted, (full, 1 << 31), (0, 0), (0, 1), work_rates)
    wall_gap = draw(st.sampled_from([0, 17, 100] if tight else [0, 9000, 70000]))
    wall = Stream(wall_gap * hosted, (full,), (0,), (2,), draw(regular(1, [17, 100] if tight else [9000, 70000])))
    if draw(st.booleans()):
        kinds = (*kinds[:2], dataclasses.replace(kinds[2], handling=0, idle=0))
    made = vpmu.design(design)
    if isinstance(made, vpmu.Mediated) and made.name != "passthrough" and draw(st.booleans()):
        # As for a guest with fewer counters than its host.
        traps = frozenset(ACCESSES) - {"counter"}
        base = dataclasses.replace(base, traps=traps, global_ctrl_in_exit_list=False)
    guest = cpu if made.owns_hardware else base.guest_cpu
    places = [i for i in range(8) if guest.gp_mask >> i & 1] + [32 + i for i in range(4) if guest.fixed_mask >> i & 1]
    chosen = draw(st.lists(st.sampled_from(places), unique=True, max_size=5)) if design != "none" else []
    codes = codes_of(cpu)
    guest_events = []
    for place in chosen:
        code = draw(st.sampled_from(sorted(codes)))
        event = codes[code] if place < 32 else {32: 0, 33: 1, 34: 2, 35: 8}[place]
        code = code if place < 32 else {32: 0xC0, 33: 0x3C, 34: 0x300, 35: 0x1A4}[place]
        user, kernel = draw(st.sampled_from([(True, True), (True, False), (False, True)]))
        period = draw(st.sampled_from([0, 1, 2, 300, 5000, 100003]))
        selector = code | user << 16 | kernel << 17 | 1 << 20
        guest_events.append(PlannedGuestEvent(event, selector, place, user, kernel, period))
    host_events = []
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 6, 14]))) if design != "bare-metal" else ():
        code = draw(st.sampled_from(sorted(codes)))
        user, kernel = draw(st.sampled_from([(True, True), (True, False), (False, True)]))
        side = draw(st.sampled_from([(True, False), (False, True), (False, False)]))
        gp = draw(st.sampled_from([cpu.gp_mask, cpu.gp_mask, 0x3, 0x1]))
        if made.cedes_pmu:
            gp = 0
        fixed = {0xC0: 1, 0x3C: 2}.get(code, 0) & cpu.fixed_mask if not made.cedes_pmu else 0
        pinned, task = draw(st.booleans()), draw(st.booleans())
        period = draw(st.sampled_from([0, 0, 1, 7, 300] if tight else [0, 0, 5000, 100_003]))
        freq = draw(st.sampled_from([0, 0, 1, 250, 4000, 100_000])) if period else 0
        sampling = (period, freq, draw(st.booleans()))
        host_events.append(PlannedHostEvent(codes[code], code, gp, fixed, user, kernel, *side, pinned, task, *sampling))
    tick = draw(st.sampled_from([7, 1000] if tight else [2000, 100_000]))
    kernel = GuestKernel()
    if guest_events and draw(st.booleans()):
        # A slow clock, so that a short run has many ticks.
        slow = draw(st.sampled_from([30_000, 300_000] if tight else [400_000, 4_000_000]))
        guest_events, kernel = draw(guest_clock(guest_events, guest, slow))
    end = draw(st.sampled_from([1, 300, 5000] if tight else [1, 5000, 120000]))
    filtered = design.startswith(("emulated", "mediated"))
    filtered_codes = [entry.selector & 0xF_0000_FFFF for entry in guest_events]
    first, changes = draw(filters(filtered_codes, end, cpu.vendor)) if filtered else (None, ())
    return dataclasses.replace(
        base,
        guest_kernel=kernel,
        end=end,
        event_filter=first,
        filter_changes=changes,
        user_share=draw(st.sampled_from([0, 1, 1 << 31, 1 << 32, 3000000000])),
        rates=rates,
        costs=costs,
        exits=kinds,
        work=work,
        wall=wall,
        seeds={name: (draw(st.integers(0, 2**64 - 1)), 7, i) for i, name in enumerate(("work", "wall", "skid"))},
        guest_events=tuple(guest_events),
        host_events=tuple(host_events),
        tick=tick,
        tick_ns=tick // 2 + 1,
        max_samples_per_tick=draw(st.sampled_from([1, 2, 5])),
        mux_interval=draw(st.sampled_from([5, 300] if tight else [1000, 30_000])),
        least_period=draw(st.sampled_from([1, 1, 32, 1000])),
    )


@st.composite
def programs(draw: st.DrawFn, designs: tuple[str, ...] = ()) -> Plan:
    """A random plan in which guest software other than perf uses the PMU in ways that perf never would."""
    planned = draw(plans(designs))
    if planned.design == "none":
        return planned
    guest = planned.cpu if planned.owns_hardware else planned.guest_cpu
    gp = [i for i in range(8) if guest.gp_mask >> i & 1]
    fixed = [32 + m for m in range(4) if guest.fixed_mask >> m & 1]
    some = st.sampled_from(gp[:3] + fixed[:3])
    selector = st.builds(
        lambda code, how: code | how,
        st.sampled_from([code_of(planned.cpu, event) for event in (0, 1, 4, 6, 7)]),
        st.sampled_from([0, 1 << 22, 3 << 16, 0x43 << 16, 0x53 << 16, 0x53 << 16, 0x51 << 16, 0x52 << 16, 0x11 << 16]),
    )
    branches = 0x530000 | code_of(planned.cpu, 6)
    full = st.sampled_from([0, guest.gp_mask | guest.fixed_mask << 32, 1, 3, 7 << 32, 1 << 32 | 1])
    top = 1 << guest.gp_width
    access = st.one_of(
        st.tuples(st.just("counter"), some, st.sampled_from([0, 1, top - 1, top - 2, top - 40, top - 3000, 1 << 40])),
        st.tuples(st.just("selector"), st.sampled_from(gp[:3]), selector),
        st.tuples(st.just("selector"), st.just(0), st.sampled_from([0x4300C0, 0x5300C0, 0x1300C0, branches])),
        st.tuples(st.just("selector"), st.sampled_from(gp[2:3] or gp), st.sampled_from([0x2_005300C4, 0x2_005300C0])),
        st.tuples(st.just("fixed_ctr_ctrl"), st.just(0), st.sampled_from([0, 0xB, 0xBB, 0x3, 0xB0, 0x8, 0x1, 0x9])),
        st.tuples(st.just("global_ctrl"), st.just(0), full),
        st.tuples(st.just("global_ctrl"), st.just(0), full),
        st.tuples(st.just("global_status"), st.just(0), st.just(0)),
        st.tuples(st.just("global_ovf_ctrl"), st.just(0), full),
        st.tuples(st.just("rdpmc"), some, st.just(0)),
        st.tuples(st.just("rdpmc"), some, st.just(0)),
        st.tuples(st.just("lvtpc"), st.just(0), st.just(0x400)),
    )
    absent = {"fixed_ctr_ctrl"} if guest.vendor == "amd" else set()
    if guest.vendor == "amd" and guest.version < 2:
        absent |= {"global_ctrl", "global_status", "global_ovf_ctrl"}
    access = access.filter(lambda step: step[0] not in absent)
    gaps = st.sampled_from([0, 1, 100, 3000])
    steps = draw(st.lists(st.tuples(gaps, access), min_size=1, max_size=25))
    constrained = {6: draw(st.sampled_from([guest.gp_mask, 0x2, 0x1])), 0: guest.gp_mask}
    return dataclasses.replace(
        planned,
        guest_events=planned.guest_events if draw(st.booleans()) else (),
        gp_constraint=tuple(constrained.get(e, mask) & mask for e, mask in enumerate(planned.gp_constraint)),
        program=tuple(PlannedAccess(gap, *what) for gap, what in steps),
    )


@st.composite
def plans_with_clock(draw: st.DrawFn) -> Plan:
    """Moderate plans whose guest has ticks, turns and tasks: few are stopped before they come."""
    design = draw(st.sampled_from(DESIGNS))
    name = draw(st.sampled_from([name for name in cpus_for(design) if name not in ("icelake", "skylake")]))
    cpu = dataclasses.replace(vpmu.cpu(name), skid=vpmu.Skid(0, draw(st.sampled_from([0, 40, 3000]))))
    pmu = draw(guest_pmus(cpu))
    base = plan(
        vpmu.Scenario(cpu=cpu, design=design, workload="fio-4k-read", guest_perf=(), seconds="0.0001", guest_pmu=pmu)
    )
    guest = cpu if base.owns_hardware else base.guest_cpu
    codes = {code: event for code, event in codes_of(cpu).items() if event in (0, 1, 4, 6)}
    codes |= {0x300: 2} if cpu.vendor == "intel" else {}
    events = []
    for _ in range(draw(st.integers(1, 6)) if design != "none" else 0):
        code = draw(st.sampled_from(sorted(codes)))
        user, kernel = draw(st.sampled_from([(True, True), (True, True), (True, False), (False, True)]))
        period = draw(st.sampled_from([0, 700, 9000, 100003]))
        selector = code | user << 16 | kernel << 17 | 1 << 20
        counter = 34 if code == 0x300 else -1
        if counter >= 0 and any(e.counter == counter for e in events):
            continue
        events.append(PlannedGuestEvent(codes[code], selector, counter, user, kernel, period))
    free = [i for i in range(8) if guest.gp_mask >> i & 1]
    events = events[: len(free)]
    events = [e if e.counter >= 0 else dataclasses.replace(e, counter=free[i]) for i, e in enumerate(events)]
    made, kernel_ = draw(guest_clock(events, guest, draw(st.sampled_from([5_000_000, 20_000_000]))))
    hosted = design != "bare-metal"
    end = draw(st.sampled_from([60_000, 300_000]))
    filtered = design.startswith(("emulated", "mediated"))
    first, changes = draw(filters(sorted(codes), end, cpu.vendor)) if filtered else (None, ())
    return dataclasses.replace(
        base,
        end=end,
        event_filter=first,
        filter_changes=changes,
        costs={name: value // draw(st.sampled_from([1, 8])) for name, value in base.costs.items()},
        work=dataclasses.replace(base.work, mean_gap=draw(st.sampled_from([0, 3000, 20_000])) * hosted),
        seeds={name: (draw(st.integers(0, 2**64 - 1)), 7, i) for i, name in enumerate(("work", "wall", "skid"))},
        guest_events=tuple(made),
        guest_kernel=kernel_,
    )


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """A short trace of the three kinds of :func:`plans`, with handling and idle times of its own."""
    n = draw(st.integers(1, 60))
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    most, repeat = draw(st.sampled_from([3, 50, 3_000, 40_000])), draw(st.booleans())
    return Trace(
        gap=random.integers(1 if repeat else 0, most, n),
        kind=random.integers(0, 3, n).astype(np.uint16),
        handling=random.integers(0, most, n),
        idle=np.where(random.random(n) < 0.2, random.integers(0, most, n), 0),
        repeat=repeat,
    )


def every(gap: int) -> tuple[int, ...]:
    """The rate of regular exits with a gap of whole cycles."""
    return (-(-(1 << 48) // gap),) if gap else ()


def directed(
    design: str, *, gap: int, wall: int, emulates: bool, skid: int, costs: dict[str, int] | None, **events
) -> Plan:
    """One kind of exit at regular gaps; every event at one occurrence per cycle; costs 0 unless given."""
    cpu = dataclasses.replace(vpmu.cpu("emeraldrapids"), skid=vpmu.Skid(skid, skid))
    base = plan(vpmu.Scenario(cpu=cpu, design=design, workload="fio-4k-read", guest_perf=(), seconds="0.0001"))
    one = (1 << 32,) * 9
    full = 0xFFFFFFFF
    return dataclasses.replace(
        base,
        user_share=1 << 32,
        rates=(one,) * 6 + ((0,) * 9,),
        costs={name: 0 if costs is None else costs.get(name, value) for name, value in base.costs.items()},
        exits=(
            PlannedExit("IO_INSTRUCTION", 1, 3, emulates, 0, 0),
            PlannedExit("EXTERNAL_INTERRUPT", 1, 0, False, 0, 0),
        ),
        work=Stream(gap, (full,), (0,), (0,), every(gap)),
        wall=Stream(wall, (full,), (0,), (1,), every(wall)),
        guest_events=tuple(
            PlannedGuestEvent(event, (0xC0 if event == 0 else 0x3C) | 3 << 16 | 1 << 20, counter, True, True, period)
            for counter, (event, period) in enumerate(events["events"])
        ),
    )
