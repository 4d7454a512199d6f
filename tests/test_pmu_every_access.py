"""The compiled PMU and the readable one do the same for every access of every MSR and for every RDPMC."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from pmu_histories import counter_write, selector_address
from pmu_strategies import ALL_ONES, BITS, MSRS, drawn_model, indices, outcome

import vpmu
import vpmu.reference

RDMSR, WRMSR, RDPMC = range(3)
#: Presets, and models drawn by number, for features and quirks in other combinations.
MODELS = {name: vpmu.cpu(name) for name in vpmu.cpus()}
MODELS |= {f"drawn-{number}": drawn_model(number) for number in range(40)}
every_model = pytest.mark.parametrize("cpu", MODELS.values(), ids=MODELS)
VALUES = [ALL_ONES, *BITS, 0x5555_5555_5555_5555, 0]


def access(op, address, value=0):
    return op, 0, 0, 1, address, value


def execute(core, plain, ops):
    """Execute a batch on both; return the results, which must be the same, as (value, fault)."""
    batch = np.array(ops, vpmu.reference.OP_DTYPE)
    results, expected = core.execute(batch).tolist(), plain.execute(batch).tolist()
    rows = zip(ops, results, expected, strict=True)
    assert results == expected, [(*map(hex, op), result, other) for op, result, other in rows if result != other][:4]
    return results


def both(cpu):
    core, plain = vpmu.Pmu(cpu), vpmu.reference.Pmu(cpu)
    assert core.state() == plain.state()
    return core, plain


def filled(cpu):
    """Both, with every bit set in every register that can be written as software would write it."""
    core, plain = both(cpu)
    for msr in MSRS:
        (_, missing), *_ = execute(core, plain, [access(RDMSR, msr)])
        if missing:
            continue
        faults = execute(core, plain, [access(WRMSR, msr, bit) for bit in BITS])
        legal = sum(bit for bit, (_, fault) in zip(BITS, faults, strict=True) if not fault)
        execute(core, plain, [access(WRMSR, msr, legal & 0x5A5A_5A5A_5A5A_5A5A), access(WRMSR, msr, legal)])
    assert core.state() == plain.state()
    return core, plain


@every_model
@pytest.mark.parametrize("start", [both, filled], ids=["reset", "filled"])
def test_every_access_of_every_msr(cpu, start):
    """Each MSR, read, and written with 0, all ones and each single bit, from RESET and with every register full."""
    core, plain = start(cpu)
    for msr in MSRS:
        before = core.state()
        writes = [access(WRMSR, msr, value) for value in VALUES]
        ((held, missing),) = execute(core, plain, [access(RDMSR, msr)])
        if missing:
            assert all(core.execute(np.array(writes, vpmu.OP_DTYPE))["fault"]), f"{msr:#x} cannot be read but written"
            execute(core, plain, [writes[0], writes[1 + msr % 64], writes[-1]])
            assert core.state() == plain.state() == before, f"{msr:#x} does not exist and changes something"
            continue
        results = execute(core, plain, writes)
        assert core.state() == plain.state(), hex(msr)
        refused = [value for value, (_, fault) in zip(VALUES, results, strict=True) if fault]
        for value in VALUES:
            if value not in refused:
                (_, fault), _ = execute(core, plain, [access(WRMSR, msr, value), access(RDMSR, msr)])
                assert not fault
                assert core.state() == plain.state(), f"{msr:#x} <- {value:#x}"
        execute(core, plain, [access(WRMSR, msr, held)])
        before = core.state()
        execute(core, plain, [access(WRMSR, msr, value) for value in refused])
        assert core.state() == plain.state() == before, f"{msr:#x} changes with a write that faults"


#: (cpl, CR4.PCE, CR0.PE)
PRIVILEGES = list(itertools.product(range(4), (False, True), (False, True)))
KINDS = sorted({0, 0x2000, 0x4000, *(1 << bit for bit in range(16)), 0x6000, 0xA000, 0xC000, 0xFFFF})


def user_disabled(cpu):
    """Both, with half of the counters hidden from user code, and PERF_METRICS not cleared by RDPMC."""
    core, plain = filled(cpu)
    ops = [access(WRMSR, 0x186 + x, (x & 1) << 37) for x in indices(cpu.gp_mask)]
    ops.append(access(WRMSR, 0x38D, sum(1 << 33 + 4 * m for m in indices(cpu.fixed_mask) if m & 1)))
    execute(core, plain, ops)
    return core, plain


@every_model
@pytest.mark.parametrize("start", [both, filled, user_disabled])
def test_every_rdpmc(cpu, start):
    """Each type with each index, around the bounds, by everyone who may or may not."""
    core, plain = start(cpu)
    for kind in KINDS:
        known = kind in (0, 0x2000, 0x4000)
        for index in (*range(65), 0xFF, 0x100, 0xFFFF) if known else (0, 1, 7, 64):
            for arguments in PRIVILEGES if known else PRIVILEGES[::5]:
                ecx = kind << 16 | index
                expected = outcome(plain.rdpmc, ecx, *arguments)
                assert outcome(core.rdpmc, ecx, *arguments) == expected, (hex(ecx), arguments)
            if kind == 0x2000:
                assert core.state() == plain.state(), hex(ecx)
        assert core.state() == plain.state(), hex(kind)


@every_model
def test_every_rdpmc_after_counting(cpu):
    """Each counter reads something else, also while its latest events are in flight."""
    core, plain = both(cpu)
    counters, fixed = indices(cpu.gp_mask), indices(cpu.fixed_mask)
    writes = [counter_write(cpu, x, 1000 + 16 * x) for x in counters]
    writes += [(0x309 + m, 2000 + 16 * m) for m in fixed]
    writes += [(selector_address(cpu, x), 0x43_00C0) for x in counters]
    writes += [(0x38D, sum(3 << 4 * m for m in fixed)), (0x38F, cpu.gp_mask | cpu.fixed_mask << 32)]
    execute(core, plain, [access(WRMSR, msr, value) for msr, value in [*writes, (0xC000_0301, cpu.gp_mask)]])
    events = {"instructions": 3, "topdown-retiring": 2}
    assert outcome(core.count, events, 5) == outcome(plain.count, events, 5) == ("returns", None)
    assert core.state() == plain.state()
    assert len(set(core.state()["counters"])) > len(counters) - 1
    for kind in (0, 0x4000, 0x2000):
        for index in range(32):
            ecx = kind << 16 | index
            assert outcome(core.rdpmc, ecx) == outcome(plain.rdpmc, ecx), hex(ecx)
    assert core.state() == plain.state()
