"""What a random history of a PMU does: settings that make things happen often, and counts that fit them."""

from __future__ import annotations

from pmu_strategies import ALL_ONES, indices

# Codes, names and places of events (docs/pmu.md, section 3)

_INTEL_CODES = {
    **{0xC0: "instructions", 0x3C: "cycles", 0x13C: "bus-cycles", 0x4F2E: "cache-references", 0x412E: "cache-misses"},
    **{0xC4: "branches", 0xC5: "branch-misses"},
}
#: By the bit of CpuModel.architectural_events.
_INTEL_MORE = {
    8: (0x2A4, "topdown-be-bound"),
    9: (0x73, "topdown-bad-spec"),
    10: (0x19C, "topdown-fe-bound"),
    11: (0x2C2, "topdown-retiring"),
    12: (0x1E4, "lbr-inserts"),
}
_AMD_CODES = {0xC0: "instructions", 0x76: "cycles", 0xC2: "branches", 0xC3: "branch-misses"}
TOPDOWN = (
    *("topdown-retiring", "topdown-bad-spec", "topdown-fe-bound", "topdown-be-bound"),
    *("topdown-heavy-ops", "topdown-br-mispredict", "topdown-fetch-lat", "topdown-mem-bound"),
)
EVENTS = (
    *("instructions", "cycles", "ref-cycles", "bus-cycles", "cache-references", "cache-misses", "branches"),
    *("branch-misses", "slots", *TOPDOWN, "lbr-inserts", "stalled-cycles-frontend", "stalled-cycles-backend"),
)
FLOWS = ("interrupt-return", "far-transfer", "vmrun", "erratum-1292")


def codes(cpu):
    """Events that general-purpose counters of a CPU model can count by name, by their code."""
    if cpu.vendor == "intel":
        slots = {0x1A4: "slots"} if cpu.fixed_mask >> 3 & 1 else {}
        return (
            _INTEL_CODES | slots | dict(_INTEL_MORE[bit] for bit in _INTEL_MORE if cpu.architectural_events >> bit & 1)
        )
    zen = max((n for n in range(6) if f"zen{n}" in cpu.features), default=0)
    references, misses = (0xFF60, 0x964) if zen else (0x77D, 0x77E)
    front, back = "stalled-cycles-frontend", "stalled-cycles-backend"
    stalled = ({0xD0: front, 0xD1: back}, {0x287: front, 0x187: back}, {0xA9: front})[min(zen, 2)]
    return (
        _AMD_CODES
        | {references: "cache-references", misses: "cache-misses"}
        | stalled
        | ({0x1_00000120: "ref-cycles"} if zen >= 4 else {})
    )


def code_mask(cpu):
    """Bits of a selector that say which event."""
    return 0xFF00_0000FFFF if cpu.vendor == "intel" else 0xF_0000FFFF


def _raw_codes(cpu):
    """Codes of events without a name; those of errata among them."""
    if cpu.vendor == "intel":
        umask2 = (0x100_000001B1,) if "umask2" in cpu.features else ()
        return (0x81D0, 0x4D3, 0x1B1, 0x1C0, 0x300, *umask2)
    extended = (0x1_000000C7, 0x1_000003D0) if "extended_event_select" in cpu.features else ()
    return (0xC1, 0x1C0, 0x5CA, 0xCC, 0xCB, *extended)


def selector_address(cpu, x):
    """MSR of the selector of counter x."""
    if cpu.vendor == "intel":
        return 0x186 + x if x < 8 or cpu.version < 6 else 0x1901 + 4 * x
    return 0xC001_0200 + 2 * x if "perfctr_core" in cpu.features else 0xC001_0000 + x


def counter_write(cpu, x, distance):
    """MSR and value that bring counter x so near to its overflow."""
    if cpu.vendor == "intel":
        if cpu.version == 6:
            return 0x1900 + 4 * x, (1 << cpu.gp_width) - distance
        return 0xC1 + x, (1 << 32) - distance
    value = (1 << 48) - distance
    return (0xC001_0201 + 2 * x if "perfctr_core" in cpu.features else 0xC001_0004 + x), value


def any_thread(cpu):
    """Whether AnyThread bits can be set."""
    return cpu.version >= 3 and not (cpu.version >= 5 and cpu.anythread_deprecated)


OS_USR, OS_ONLY, USR_ONLY = 3 << 16, 2 << 16, 1 << 16
EDGE, PIN, INT, ANY, EN, INV, IN_TX, IN_TXCP, EQ = (1 << bit for bit in (18, 19, 20, 21, 22, 23, 32, 33, 36))
GUEST_ONLY, HOST_ONLY = 1 << 40, 1 << 41


def _oddity(cpu, roll, x):
    """What makes a counter count something else than occurrences."""
    kind = roll.below(8)
    m = (1 + roll.below(4)) << 24
    tsx = cpu.features & {"rtm", "hle"}
    intel = cpu.vendor == "intel"
    if intel and tsx and x == 2 and kind in (1, 2, 3):
        return IN_TXCP
    if kind == 1:
        return m | roll.pick(0, INV) | (roll.pick(0, EQ) if "eq" in cpu.features else 0)
    if kind == 2:
        return EDGE | roll.pick(0, m, INV, m | INV)
    if kind == 3:
        return (1 + roll.below(255)) << 24 | roll.pick(0, INV)
    if intel and any_thread(cpu) and (kind == 4 or (kind == 5 and not tsx)):
        return ANY
    if intel and tsx and kind > 3:
        return roll.pick(IN_TX, IN_TXCP if x == 2 else IN_TX, IN_TX | IN_TXCP if x == 2 else IN_TX)
    if intel and kind == 6:
        return 1 << roll.pick(23, 34, 35, 37, 19, 40)  # of which some may fault
    if not intel and kind > 3:
        return roll.pick(GUEST_ONLY, HOST_ONLY, GUEST_ONLY | HOST_ONLY, 1 << 43, 1 << 19)
    return 0


def _selector(cpu, roll, x):
    """A selector that mostly counts, near what is legal."""
    known = tuple(codes(cpu))
    code = roll.pick(*known[:4], *known, *_raw_codes(cpu))
    mode = roll.pick(OS_USR, OS_USR, OS_USR, OS_USR, OS_USR, OS_ONLY, USR_ONLY, 0)
    return code | mode | roll.pick(EN, EN, EN, EN, EN, EN, EN, 0) | roll.pick(INT, INT, 0) | _oddity(cpu, roll, x)


def settings_of(cpu, roll):
    """WRMSRs that set every counter up, near its overflow, and enable most of what there is."""
    return list(_amd_settings(cpu, roll) if cpu.vendor == "amd" else _intel_settings(cpu, roll))


def _distance(roll):
    return 1 + roll.below(roll.pick(24, 60, 8))


def _lvtpc(roll):
    return roll.pick(0, 0, 0, 0, 1) << 16 | roll.pick(4, 0, 4, 2) << 8 | 0xF0 | roll.below(16)


def _intel_settings(cpu, roll):
    counters = indices(cpu.gp_mask)
    fixed = indices(cpu.fixed_mask)
    if cpu.version >= 2 and roll.rarely(4):
        yield 0x38F, 0
    if roll.rarely(4):
        yield 0x10F, roll.pick(0, 1)
    for x in counters:
        if not roll.skips():
            yield selector_address(cpu, x), _selector(cpu, roll, x)
        if not roll.skips():
            yield counter_write(cpu, x, _distance(roll))
    if cpu.version >= 2:
        control = 0
        nibbles = (0xB, 0xB, 0xB, 0x3, 0x9, 0xA, 0x8)
        for m in fixed:
            if roll.skips():
                continue
            other = 4 if any_thread(cpu) and roll.rarely(16) else 0
            control |= (roll.pick(*nibbles) | other) << 4 * m
            near = m != 3 or not cpu.perf_capabilities >> 15 & 1 or roll.rarely(3)
            yield 0x309 + m, (1 << cpu.fixed_width) - _distance(roll) if near else roll.number() & 0xFFFF
        if cpu.perf_capabilities >> 19 & 1:
            control = control & ~(1 << 14) | roll.pick(0, 1) << 14
        if "rdpmc_user_disable" in cpu.features:
            control |= sum(1 << 33 + 4 * m for m in roll.some(fixed, 4))
        yield 0x38D, control
        if cpu.perf_capabilities >> 15 & 1 and roll.below(2):
            yield 0x329, int.from_bytes(bytes(roll.below(256) for _ in range(8)), "little")
        if roll.pick(False, True, True):
            yield 0x390, _status_bits(cpu)
        metrics = cpu.perf_capabilities >> 15 & 1
        debugctl = roll.pick(0, 0, 1 << 12, 1 << 12, 1 << 11 | 1, 3 << 11 | 1)
        debugctl |= (cpu.perf_capabilities >> 12 & 1) << 14 & roll.pick(0, ALL_ONES)
        yield 0x1D9, debugctl if "pdcm" in cpu.features else debugctl & ~(3 << 11)
        stopped = roll.bits(cpu.gp_mask | cpu.fixed_mask << 32) if roll.rarely(6) else 0
        enabled = cpu.gp_mask | cpu.fixed_mask << 32 | (metrics << 48 if not roll.rarely(8) else 0)
        if cpu.version == 6:
            for x in indices(cpu.acr[0]):
                yield 0x1902 + 4 * x, roll.pick(*(31 * [0]), cpu.gp_mask)
        yield 0x38F, enabled & ~stopped
    yield 0x834, _lvtpc(roll)


def _status_bits(cpu):
    """All bits that GLOBAL_STATUS can have."""
    status = cpu.gp_mask | cpu.fixed_mask << 32 | 1 << 63
    status |= (cpu.perf_capabilities >> 15 & 1) << 48
    if cpu.version >= 4:
        status |= 3 << 58
    return status


def _amd_settings(cpu, roll):
    counters = indices(cpu.gp_mask)
    merged = 0xF_000000FF if "extended_event_select" in cpu.features else 0xFF
    for n in counters:
        if roll.skips():
            continue
        if n % 2 and cpu.gp_mask >> n - 1 & 1 and merged > 0xFF and roll.rarely(3):
            yield selector_address(cpu, n), merged | roll.pick(EN, EN, EN, 0) | roll.pick(0, OS_USR)
            address, _ = counter_write(cpu, n, 1)
            yield address, roll.pick(0xFFFF, 0xFFFF, 0xFFFE, 0x1FFFF)
        else:
            yield selector_address(cpu, n), _selector(cpu, roll, n)
            yield counter_write(cpu, n, _distance(roll))
    if "irperf" in cpu.features:
        yield 0xC001_0015, roll.pick(1, 1, 0) << 30
    if cpu.version >= 2:
        if roll.pick(False, True, True):
            yield 0xC000_0302, ALL_ONES
        stopped = roll.bits(cpu.gp_mask) if roll.rarely(6) else 0
        yield 0xC000_0301, cpu.gp_mask & ~stopped
    if not roll.skips():
        yield 0x1D9, roll.pick(0, 0, 1 << 12, 1 << 12, 1 << 11, 3 << 11)
    yield 0x834, _lvtpc(roll)


# Things to count


def _distribution(roll, cycles, multiples):
    """Split cycles among numbers of occurrences per cycle."""
    parts, left = [], cycles
    for _ in range(roll.pick(2, 3, 4, 5, 1, 16) - 1):
        part = min(left, roll.below(256) * max(cycles, 1) >> 9 if multiples else roll.below(9))
        parts.append(part)
        left -= part
    return [*parts[::-1], left] if roll.below(2) else [left, *parts]


def _rises(roll, selector, parts):
    """How often a condition may begin to hold: mostly not more often than its cycles allow."""
    most = 4
    if parts and not roll.rarely(16):
        least = selector >> 24 & 0xFF or 1
        holds = sum(parts[least:]) if not selector & INV or least == 1 else sum(parts[:least])
        most = min(4, holds, sum(parts) - holds + 1)
    return roll.below(most + 1)


def _name(cpu, roll, code):
    known = codes(cpu)
    if code in known and not roll.rarely(8):
        return known[code]
    return roll.pick(f"r{code:04X}", f"r{code:x}", f"r{code:016x}", f"r{code:04x}")


def counting(cpu, state, roll):
    """Arguments of ``count`` that mostly fit the settings: events, and the keywords."""
    cycles = roll.pick(0, roll.below(24), roll.below(60), roll.number(), roll.below(24), roll.below(256) * 16)
    if cycles > 1 << 51 and not roll.rarely(4):
        cycles &= 0xFFFF
    events, per_cycle, edges = {}, {}, {}
    wanted = {}
    mask = code_mask(cpu)
    for selector in state["selectors"]:
        if selector & EN:
            wanted[selector & mask] = wanted.get(selector & mask, 0) | selector
    spare = roll.rarely(4)
    for code, selectors in wanted.items():
        name = _name(cpu, roll, code)
        clocked = name in ("cycles", "ref-cycles", "bus-cycles", "slots")
        distributed = bool(selectors >> 24 & 0xFF) or (cpu.vendor == "amd" and roll.rarely(6)) or roll.rarely(16)
        if distributed and name != "cycles" and not (name == "slots" and roll.below(2)) and not roll.rarely(24):
            parts = _distribution(roll, cycles, multiples=cycles > 64)
            per_cycle[name] = parts
            if roll.below(2):
                events[name] = sum(k * n for k, n in enumerate(parts))
        elif name != "cycles" and (not clocked or roll.rarely(4)) and not roll.rarely(5):
            events[name] = roll.number()
        if selectors & EDGE and not roll.rarely(24):
            edges[name] = _rises(roll, selectors, per_cycle.get(name))
    for name in roll.some(EVENTS[:9], 6) if spare else ():
        if name not in events and name not in per_cycle and name != "cycles":
            events[name] = roll.number()
    if state["global_ctrl"] >> 48 & 1 or roll.rarely(16):
        for name in TOPDOWN:
            if name not in events and name not in per_cycle and roll.below(2):
                events[name] = roll.below(16)
    keywords = {"cycles": cycles, "cpl": roll.pick(0, 3, 0, 3, 0, 3, 1, 2)}
    if per_cycle:
        keywords["per_cycle"] = per_cycle
    if edges:
        keywords["edges"] = edges
    _others(cpu, state, roll, events, keywords)
    if roll.rarely(24):
        _mistake(roll, events, keywords)
    return events, keywords


def _others(cpu, state, roll, events, keywords):
    """What the sibling thread does, transactions, flows and leaks."""
    shared = any(selector & (ANY | EN) == ANY | EN for selector in state["selectors"])
    shared = shared or state["fixed_ctr_ctrl"] & 0x4444_4444 & ~(cpu.perf_capabilities >> 19 << 14)
    if cpu.vendor == "intel" and ((shared and not roll.rarely(16)) or roll.rarely(24)):
        names = [*events, "instructions", "branches"][: 1 + roll.below(4)]
        keywords["sibling"] = {name: roll.number() for name in names if name != "cycles"}
        keywords["sibling_cycles"] = roll.number()
        keywords["sibling_cpl"] = roll.pick(0, 3, 1)
    if cpu.features & {"rtm", "hle"}:
        transaction = roll.pick(None, "abort", "commit", None)
        if transaction:
            keywords["transaction"] = transaction
    if roll.rarely(2):
        keywords["flows"] = {name: roll.below(10) for name in roll.some(FLOWS, 2)}
    if "ht_leak" in cpu.quirks and roll.rarely(2):
        keywords["leaks"] = {x: roll.number() for x in roll.some(indices(cpu.gp_mask), 2)}


def _mistake(roll, events, keywords):
    """Make one thing about a count wrong."""
    kind = roll.below(16)
    distributions = keywords.get("per_cycle")
    if kind == 1:
        events["instruction"] = 1
    elif kind == 2:
        events["branches"] = -1
    elif kind == 3:
        keywords["cpl"] = 4
    elif kind == 4:
        keywords["cycles"] = 1 << 58
    elif kind == 5:
        events["r1_0000"] = 1
    elif kind == 6:
        events["r10000"] = 1
    elif kind == 7:
        keywords["transaction"] = roll.pick("commit", "begin")
    elif kind == 8:
        keywords["flows"] = {roll.pick("interrupt", "far-transfer"): -roll.below(2)}
    elif kind == 9:
        keywords["leaks"] = {roll.pick(15, 16, -1, 64): 1}
    elif kind == 10:
        keywords["edges"] = {roll.pick("instructions", "nothing"): roll.pick(-1, 1)}
    elif kind == 11:
        keywords.setdefault("per_cycle", {})["branches"] = roll.pick([], [0] * 17, [1], [-1, 1])
    elif kind == 12:
        events["r00C0"] = events["instructions"] = 1
    elif kind == 13:
        keywords["sibling_cpl"] = 4
    elif kind == 14:
        keywords["sibling"] = {roll.pick("nothing", "instructions"): -1}
    elif distributions:
        parts = next(iter(distributions.values()))
        parts[roll.below(len(parts))] += 1
