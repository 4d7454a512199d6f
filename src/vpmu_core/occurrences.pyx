# cython: freethreading_compatible=True
"""What each counter gets of what a caller says: distributions, edges, siblings, transactions, overcounts.

docs/pmu.md, section 5.
"""
from vpmu_core._types cimport uint32_t, uint64_t
from vpmu_core.activity cimport between
from vpmu_core.advance cimport counting, is_pair, metrics_count
from vpmu_core.execute cimport any_thread
from vpmu_core.registers cimport (
    QUIRK_AMD_1292, QUIRK_AMD_VMRUN_BRANCH, QUIRK_ATOM_FAR_OVERCOUNT, QUIRK_ATOM_FAR_OVERCOUNT_INSTRUCTIONS, QUIRK_HT_LEAK,
    QUIRK_IRQ_OVERCOUNT, QUIRK_TFA, QUIRK_TXCP_SPURIOUS,
)
from vpmu_core.unit cimport (
    EVENT_BRANCHES, EVENT_BUS_CYCLES, EVENT_CYCLES, EVENT_INSTRUCTIONS, EVENT_REF_CYCLES, EVENT_SLOTS, EVENT_TOPDOWN,
    FIXED_SLOT, METRICS, NO_EVENT, SELECTOR_EDGE, SLOTS, enabled,
)

from collections.abc import Mapping
from operator import index as as_integer

from vpmu._errors import ScenarioError, UnknownName
from vpmu._event_codes import PMU_EVENTS as _PMU_EVENTS, parse_raw, selector_codes

#: Index of each named event in the core.
INDEX = {name: i for i, name in enumerate(_PMU_EVENTS) if name}
FLOWS = ("interrupt-return", "far-transfer", "vmrun", "erratum-1292")
#: Retire events that erratum 1292 may overcount (AMD revision guide 56683): event selects.
_ERRATUM_1292 = {*range(0xC0, 0xC6), *range(0xC8, 0xCB), 0xCC, 0xD1, 0x1C7, 0x1D0}


cdef object unsummable(const unit_t *unit, int slot):
    """The error of a counter that needs to know more than sums of occurrences."""
    name = f"PMC{slot}, selector {unit.pmu.selector[slot]:#x}" if slot < FIXED_SLOT else f"FIXED_CTR{slot - FIXED_SLOT}"
    if unit.reloads >> slot & 1:
        return ScenarioError(f"{name}: auto-counter-reload is not simulated; write 0 to its CFG_B")
    if any_thread(unit, slot):
        return ScenarioError(f"{name}: AnyThread needs what the sibling thread does; give sibling={{…}}")
    if unit.pmu.selector[slot] & SELECTOR_EDGE:
        return ScenarioError(f"{name}: edge detection needs the rises of its condition; give edges={{event: n}}")
    return ScenarioError(
        f"{name}: CMASK needs the distribution of occurrences per cycle; give per_cycle={{event: [cycles with 0, with 1, …]}}"
    )


cdef object number_of(object name, object value):
    number = as_integer(value)
    if number < 0:
        raise ScenarioError(f"{name} must not be negative: {number}")
    if number >> 64:
        raise OverflowError(f"{name} must be an integer in [0, 2**64), not {number}")
    return number


cdef int privilege(object cpl, object name="cpl") except -1:
    level = as_integer(cpl)
    if not 0 <= level <= 3:
        raise ScenarioError(f"{name} must be 0 to 3, not {level}")
    return level


cdef object _key(object cpu, object name):
    """Index of a named event; -1 - code of any other."""
    if name in INDEX:
        return INDEX[name]
    code = parse_raw(name, cpu) if isinstance(name, str) else None
    if code is None:
        raise UnknownName("event", str(name), INDEX)
    known = selector_codes(cpu).get(code)
    return -1 - code if known is None else INDEX[known]


cdef object _mapping(str what, object given):
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"{what} must be a mapping, not {type(given).__name__}")
    return {} if given is None else given


cdef object _new_key(object cpu, str what, object name, object known):
    key = _key(cpu, name)
    if key in known:
        raise ScenarioError(f"{what}: {name} is given twice, by name and by code")
    return key


cdef object _numbers(object cpu, str what, object mapping):
    """A mapping of event names to numbers, by key."""
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{what} must be a mapping of event names, not {type(mapping).__name__}")
    numbers = {}
    for name, value in mapping.items():
        key = _new_key(cpu, what, name, numbers)
        numbers[key] = number_of(f"{what}: {name}", value)
    return numbers


cdef object _amounts(const unit_t *unit, object cpu, str what, object events, str clock, object cycles):
    """Occurrences by key and core cycles of one thread, without those that follow its clock."""
    given = _numbers(cpu, what, events)
    elapsed = number_of(clock, cycles)
    if EVENT_CYCLES in given:
        if elapsed:
            raise ScenarioError(f"cycles are given twice: as an event of {what} and as {clock}={elapsed}")
        elapsed = given[EVENT_CYCLES]
    if unit.cycles + elapsed >= 1 << 58:
        raise OverflowError(f"a PMU counts fewer than 2**58 cycles in all; {clock}={elapsed} after {unit.cycles}")
    return given, elapsed


cdef object _with_clock(const unit_t *unit, object given, object elapsed):
    cdef uint64_t now = unit.cycles, end = now + <uint64_t>elapsed
    clocked = {EVENT_CYCLES: elapsed, EVENT_REF_CYCLES: between(unit.file.rate_ref_cycles, now, end)}
    if not unit.file.amd:
        clocked[EVENT_BUS_CYCLES] = between(unit.file.rate_bus_cycles, now, end)
        clocked[EVENT_SLOTS] = between(unit.file.rate_slots, now, end)
    return clocked | given


cdef object _distributions(object cpu, object per_cycle, object given, object elapsed):
    """Cycles with 0, 1, … occurrences, by key; where ``given`` has no sum, it gets one."""
    known = {}
    sums = {}
    if not isinstance(per_cycle, Mapping):
        raise TypeError(f"per_cycle must be a mapping of event names, not {type(per_cycle).__name__}")
    for name, shares in per_cycle.items():
        key = _new_key(cpu, "per_cycle", name, known)
        if isinstance(shares, (str, Mapping)) or not hasattr(shares, "__len__"):
            raise TypeError(f"per_cycle[{name!r}] must be a sequence of integers, not {type(shares).__name__}")
        if not 1 <= len(shares) <= 16:
            raise ScenarioError(f"per_cycle[{name!r}] must have 1 to 16 entries, not {len(shares)}")
        cycles = [number_of(f"per_cycle[{name!r}]", n) for n in shares]
        if sum(cycles) != elapsed:
            raise ScenarioError(f"per_cycle[{name!r}] has {sum(cycles)} cycles and must have cycles={elapsed}")
        occurrences = sum([k * n for k, n in enumerate(cycles)])
        expected = elapsed if key == EVENT_CYCLES else given.get(key)
        if expected is not None and occurrences != expected:
            raise ScenarioError(f"per_cycle[{name!r}] has {occurrences} occurrences and the event {expected}")
        sums[key] = occurrences
        known[key] = cycles
    given |= sums
    return known


cdef bint _holds(uint64_t selector, object n):
    """Whether a cycle with n occurrences meets a selector's condition (SDM vol. 3B, CMASK, INV, EQ)."""
    least = selector >> 24 & 0xFF
    if not least:
        return n > 0
    return (n == least if selector >> 36 & 1 else n >= least) != (selector >> 23 & 1)


cdef object _filtered(
    const unit_t *unit, int slot, uint64_t selector, object key, object amounts, object known, object edges
):
    """What CMASK, INV, EQ and EDGE make of one thread's occurrences."""
    if not selector & (SELECTOR_EDGE | 0xFF000000):
        return amounts.get(key, 0)
    shares = known.get(key)
    if shares is None and not selector & SELECTOR_EDGE:
        raise unsummable(unit, slot)
    true = sum([n for k, n in enumerate(shares or ()) if _holds(selector, k)])
    if not selector & SELECTOR_EDGE:
        return true
    if key not in edges:
        raise unsummable(unit, slot)
    if shares is not None and edges[key] > min(true, sum(shares) - true + 1):
        raise ScenarioError(
            f"PMC{slot}: {edges[key]} edges do not fit {true} cycles in which its condition holds and {sum(shares) - true} others"
        )
    return edges[key]


cdef object _overcounted(const unit_t *unit, int slot, uint64_t selector, object key, object flows, bint user):
    cdef uint32_t quirks = unit.file.quirks
    n = 0
    if key == EVENT_INSTRUCTIONS:
        if quirks & QUIRK_IRQ_OVERCOUNT and user:
            n += flows["interrupt-return"]
        if quirks & QUIRK_ATOM_FAR_OVERCOUNT:
            n += flows["far-transfer"]
        if quirks & QUIRK_ATOM_FAR_OVERCOUNT_INSTRUCTIONS:
            n += flows["far-transfer"]
    elif key == EVENT_BRANCHES:
        if quirks & QUIRK_ATOM_FAR_OVERCOUNT:
            n += flows["far-transfer"]
        if quirks & QUIRK_AMD_VMRUN_BRANCH and unit.guest:
            n += flows["vmrun"]
    if quirks & QUIRK_AMD_1292 and unit.file.amd and (selector & 0xFF | selector >> 24 & 0xF00) in _ERRATUM_1292:
        exact = slot == 2 and selector >> 43 & 1 and not selector >> 20 & 1
        n += 0 if exact else flows["erratum-1292"]
    return n


cdef bint _excluded(const unit_t *unit, int slot, uint64_t selector, bint in_transaction, bint borrowed) noexcept:
    """Whether a counter gets nothing at all: microcode has it (Linux 400816f60c54), or IN_TX outside of a transaction."""
    if slot >= FIXED_SLOT or unit.file.amd:
        return False
    return (borrowed and slot == 3) or (selector >> 32 & 1 and not in_transaction)


cdef object fill(unit_t *unit, object cpu, object arguments, happening_t *h):
    """Validate the arguments of Pmu.count and work out what each counter gets; an error leaves ``unit`` as it was."""
    cdef int slot, i
    cdef uint64_t selector
    cdef uint32_t own_on, sibling_on = 0
    cdef bint user, both
    (events, cycles, cpl, per_cycle, edges, sibling, sibling_cycles, sibling_cpl, transaction, flows, leaks) = arguments
    given, elapsed = _amounts(unit, cpu, "events", events, "cycles", cycles)
    user = privilege(cpl) > 0
    own_on = counting(unit, user)
    known = _distributions(cpu, {} if per_cycle is None else per_cycle, given, elapsed)
    edges = {} if edges is None else _numbers(cpu, "edges", edges)
    theirs, their_cycles = _amounts(
        unit, cpu, "sibling", {} if sibling is None else sibling, "sibling_cycles", sibling_cycles
    )
    if sibling is None and their_cycles:
        raise ScenarioError(f"sibling_cycles={their_cycles} needs sibling={{…}}")
    sibling_user = privilege(sibling_cpl, "sibling_cpl") > 0
    if sibling is not None:
        theirs = _with_clock(unit, theirs, their_cycles)
        sibling_on = enabled(&unit.pmu, sibling_user)
    if transaction not in (None, "commit", "abort"):
        raise ScenarioError(f"transaction must be None, 'commit' or 'abort', not {transaction!r}")
    if transaction is not None and not unit.file.transactions:
        raise ScenarioError(f"transaction={transaction!r}: {cpu.name} has neither RTM nor HLE")
    flow = dict.fromkeys(FLOWS, 0)
    for name, n in _mapping("flows", flows).items():
        if name not in flow:
            raise UnknownName("flow", str(name), FLOWS)
        flow[name] = number_of(name, n)
    leaked = {}
    for x, n in _mapping("leaks", leaks).items():
        if not 0 <= as_integer(x) < FIXED_SLOT or not cpu.gp_mask >> x & 1:
            raise ScenarioError(f"leaks: there is no general-purpose counter {x}")
        leaked[x] = number_of(f"leaks[{x}]", n)
    if EVENT_SLOTS not in given and not unit.file.amd and unit.file.slots_per_cycle < 16:
        known.setdefault(EVENT_SLOTS, [0] * unit.file.slots_per_cycle + [elapsed])
    known.setdefault(EVENT_CYCLES, [0, elapsed])
    amounts = _with_clock(unit, given, elapsed)

    aborted = transaction == "abort" or (transaction is not None and unit.tsx_force_abort & 1)
    borrowed = transaction is not None and unit.file.quirks & QUIRK_TFA and not unit.tsx_force_abort & 1
    h.on = 0
    h.spurious = 0
    gets = {}
    for slot in range(SLOTS):
        if not unit.pmu.slots >> slot & 1 or (slot & 1 and slot < FIXED_SLOT and is_pair(unit, slot - 1)):
            continue
        both = any_thread(unit, slot)
        own = own_on >> slot & 1
        theirs_too = both and sibling_on >> slot & 1
        if not own and not theirs_too:
            continue
        selector = unit.pmu.selector[slot] if slot < FIXED_SLOT else 0
        if unit.reloads >> slot & 1 or (both and sibling is None):
            raise unsummable(unit, slot)
        if both and selector & (SELECTOR_EDGE | 0xFF000000):
            raise ScenarioError(f"PMC{slot}, selector {selector:#x}: AnyThread with CMASK or edge detection is not simulated")
        h.on |= <uint32_t>1 << slot
        h.got[slot] = 0
        if _excluded(unit, slot, selector, transaction is not None, borrowed):
            continue
        if selector >> 33 & 1 and aborted and slot < FIXED_SLOT and not unit.file.amd:
            h.on &= ~(<uint32_t>1 << slot)
            if not unit.file.quirks & QUIRK_TXCP_SPURIOUS or not unit.pmu.interrupt >> slot & 1:
                continue
            h.spurious |= <uint32_t>1 << slot
        key = unit.pmu.event[slot]
        if key == NO_EVENT:
            code = selector & unit.pmu.codes.mask
            key = -1 - <object>code if slot < FIXED_SLOT else None
        plain = not selector & (SELECTOR_EDGE | 0xFF000000)
        diverted = unit.enable_hazard and slot < FIXED_SLOT and plain
        if diverted:
            key = EVENT_CYCLES
        got = 0
        if own:
            got = _filtered(unit, slot, selector, key, amounts, known, edges)
            if plain and not diverted:
                got += _overcounted(unit, slot, selector, key, flow, user)
        if theirs_too:
            got += theirs.get(key, 0)
        if unit.file.quirks & QUIRK_HT_LEAK and slot < FIXED_SLOT:
            got += leaked.get(slot, 0)
        gets[slot] = got
    for slot, got in gets.items():
        h.got[slot] = number_of(f"what counter {slot} gets", got)
    h.cycles = elapsed
    h.instructions = amounts.get(EVENT_INSTRUCTIONS, 0)
    h.metrics_on = metrics_count(unit, user)
    for i in range(METRICS):
        h.metrics[i] = amounts.get(EVENT_TOPDOWN + i, 0) if h.metrics_on else 0
    if borrowed and unit.pmu.slots >> 3 & 1:
        unit.pmu.counter[3] = 0
