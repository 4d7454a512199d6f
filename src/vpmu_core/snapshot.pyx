# cython: freethreading_compatible=True
"""A PMU as plain Python values, and back, as far as its registers can hold them."""
from libc.string cimport memcpy

from vpmu_core._types cimport uint32_t, uint64_t
from vpmu_core.msr cimport reset_unit, set_mode
from vpmu_core.registers cimport QUIRK_AMD_LATE_NMI, QUIRK_NHM_ENABLE, QUIRK_REFTSC_STICKY_OVF
from vpmu_core.unit cimport FIXED_SLOT, METRICS, SLOTS, write_fixed_ctr_ctrl, write_selector

from collections.abc import Mapping

from vpmu._errors import ScenarioError
from vpmu._registers import holdable
from vpmu_core.registers import WORDS as _WORDS

STATE_VERSION = 2
_MODES = (0, 2, 4)
#: Registers that are one word each, by key of the state.
_SINGLE = (
    *("fixed_ctr_ctrl", "global_ctrl", "global_status", "perf_metrics", "pebs_enable", "pebs_data_cfg", "pebs_base"),
    *("pebs_index", "ds_area", "debugctl", "tsx_force_abort", "hwcr", "irperf", "lvtpc"),
)


cdef object _banks(object cpu):
    """Key, first word and length of what is a tuple of registers."""
    gp, fixed = cpu.gp_mask.bit_length(), cpu.fixed_mask.bit_length()
    return (
        ("counters", _WORDS["counter"], gp),
        ("fixed", _WORDS["counter"] + FIXED_SLOT, fixed),
        ("selectors", _WORDS["selector"], gp),
        ("uncore", _WORDS["uncore"], 3),
        ("reload", _WORDS["reload"], SLOTS),
        ("cfg_b", _WORDS["cfg_b"], SLOTS),
        ("cfg_c", _WORDS["cfg_c"], SLOTS),
    )


cdef object take(const unit_t *unit, object cpu):
    cdef const uint64_t *words = <const uint64_t *>unit
    cdef size_t first
    state = {"version": STATE_VERSION, "cpu": cpu.name, "quirks": ",".join(sorted(cpu.quirks))}
    for key, first, length in _banks(cpu):
        state[key] = tuple([words[first + <size_t>i] for i in range(length)])
    for key in _SINGLE:
        first = _WORDS[key]
        state[key] = words[first]
    state["metrics_slots"] = tuple([unit.metrics_slots[i] for i in range(METRICS)])
    state["pmi_pending"] = unit.pmi_pending
    state["pmi_entry"] = unit.pmi_entry
    state["pmi_arrival"] = unit.pmi_arrival
    state["skid"] = tuple([unit.skid.s[i] for i in range(4)]) if unit.has_skid else ()
    state["svme"] = unit.svme
    state["guest"] = unit.guest
    state["smm"] = unit.smm
    state["smm_saved"] = (unit.smm_saved[0], unit.smm_saved[1])
    state["enable_hazard"] = unit.enable_hazard
    state["reftsc_latch"] = unit.reftsc_latch
    state["in_flight"] = unit.in_flight
    state["cycles"] = unit.cycles
    return state


cdef object _held(str name, object value, object legal):
    """A value that has only legal bits."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ScenarioError(f"state: {name} must be an integer, not {value!r}")
    if value < 0 or value & ~legal:
        raise ScenarioError(f"state: {name} cannot be {value:#x}: it can hold the bits {legal:#x}")
    return value


cdef object _limited(str name, object value, object least, object most):
    if isinstance(value, bool) or not isinstance(value, int):
        raise ScenarioError(f"state: {name} must be an integer, not {value!r}")
    if not least <= value <= most:
        raise ScenarioError(f"state: {name} is {value} and must be {least} to {most}")
    return value


cdef object _tuple(str name, object value, object lengths):
    if not isinstance(value, tuple) or len(value) not in lengths:
        expected = " or ".join(map(str, lengths))
        raise ScenarioError(f"state: {name} must be a tuple of {expected} integers, not {value!r}")
    return value


cdef object _check_registers(object cpu, object state):
    """(word, value) of everything that is a register."""
    legal = holdable(cpu)
    words = []
    for key, first, length in _banks(cpu):
        for i, value in enumerate(_tuple(key, state[key], (length,))):
            words.append((first + i, _held(f"{key}[{i}]", value, legal.get(first + i, 0))))
    for key in _SINGLE:
        words.append((_WORDS[key], _held(key, state[key], legal.get(_WORDS[key], 0))))
    if cpu.version < 2 and state["global_ctrl"] != cpu.gp_mask:
        raise ScenarioError(f"state: global_ctrl is {state['global_ctrl']:#x} and is {cpu.gp_mask:#x} on this CPU, always")
    if state["ds_area"] >> 47 not in (0, 0x1FFFF):
        raise ScenarioError(f"state: ds_area {state['ds_area']:#x} is not canonical")
    for key in ("lvtpc", "pmi_entry"):
        _held(key, state[key], 0x107FF if key == "lvtpc" else 0x7FF)
        if state[key] >> 8 & 7 not in _MODES:
            raise ScenarioError(f"state: {key} {state[key]:#x} has no such delivery mode")
    return words


cdef object restore(unit_t *unit, object cpu, object state):
    """Fill a PMU of this CPU from a state; ScenarioError for a foreign one."""
    cdef unit_t made
    cdef uint64_t *words = <uint64_t *>&made
    cdef size_t word
    cdef int slot
    cdef uint32_t quirks = unit.file.quirks
    reset_unit(&made, unit.file)
    expected = take(&made, cpu)
    if not isinstance(state, Mapping):
        raise ScenarioError(f"state: must be what state() returned, not {type(state).__name__}")
    for name in ("version", "cpu", "quirks"):
        if name in state and state[name] != expected[name]:
            raise ScenarioError(f"state: {name} is {state[name]!r} and must be {expected[name]!r}")
    odd = sorted(state.keys() ^ expected.keys(), key=str)
    if odd:
        raise ScenarioError(f"state: missing or unknown keys: {odd}")
    for word, value in _check_registers(cpu, state):
        words[word] = value
    for i, value in enumerate(_tuple("metrics_slots", state["metrics_slots"], (METRICS,))):
        made.metrics_slots[i] = _held(f"metrics_slots[{i}]", value, (1 << 64) - 1 if i < made.file.perf_metrics else 0)
    made.pmi_pending = _limited("pmi_pending", state["pmi_pending"], 0, 2 if quirks & QUIRK_AMD_LATE_NMI else 1)
    made.pmi_entry = _held("pmi_entry", state["pmi_entry"], 0x7FF if made.pmi_pending else 0)
    made.cycles = _limited("cycles", state["cycles"], 0, (1 << 58) - 1)
    made.pmi_arrival = _limited("pmi_arrival", state["pmi_arrival"], -1, (1 << 58) + cpu.skid.maximum)
    for i, value in enumerate(_tuple("skid", state["skid"], [0, 4] if "pmi_skid" in cpu.quirks else [0])):
        made.skid.s[i] = _limited(f"skid[{i}]", value, 0, (1 << 64) - 1)
        made.has_skid = 1
    made.svme = _limited("svme", state["svme"], 0, 1 if "svm" in cpu.features else 0)
    made.guest = _limited("guest", state["guest"], 0, made.svme)
    made.smm = _limited("smm", state["smm"], 0, 1)
    legal = holdable(cpu)
    for i, (name, value) in enumerate(zip(("global_ctrl", "debugctl"), _tuple("smm_saved", state["smm_saved"], (2,)))):
        made.smm_saved[i] = _held(f"smm_saved[{i}]", value, legal.get(_WORDS[name], 0) if made.smm else 0)
    if (made.smm_saved[0] or made.smm_saved[1]) and not made.smm_saved[1] >> 14 & 1:
        raise ScenarioError(f"state: smm_saved {state['smm_saved']} is nothing that smi() saves: DEBUGCTL[14] is clear")
    made.enable_hazard = _limited("enable_hazard", state["enable_hazard"], 0, 1 if quirks & QUIRK_NHM_ENABLE else 0)
    made.reftsc_latch = _limited("reftsc_latch", state["reftsc_latch"], 0, 1 if quirks & QUIRK_REFTSC_STICKY_OVF else 0)
    made.in_flight = _held("in_flight", state["in_flight"], made.pmu.slots)
    if made.file.amd:
        set_mode(&made, made.svme, made.guest)
    for slot in range(FIXED_SLOT):
        if made.pmu.slots >> slot & 1:
            write_selector(&made.pmu, slot, made.pmu.selector[slot])
    write_fixed_ctr_ctrl(&made.pmu, made.pmu.fixed_ctr_ctrl)
    for slot in range(SLOTS):
        made.reloads |= <uint32_t>(made.cfg_b[slot] != 0) << slot
    memcpy(unit, &made, sizeof(unit_t))
