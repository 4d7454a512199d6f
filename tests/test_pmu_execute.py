"""Batches of RDMSR, WRMSR and RDPMC: the same as one by one, and counting themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pmu_models import CTRL, DEBUGCTL, EN, GENOA, INT, LVTPC, NMI, OS, USR, ZEN1, ctl, ctr, gp, model

import vpmu
import vpmu.reference

RDMSR, WRMSR, RDPMC = range(3)
SELF = 1


def batch(*ops):
    """Make an array of operations of (op, flags, cpl, cr4_pce, address, value)."""
    return np.array(list(ops), vpmu.reference.OP_DTYPE)


def test_dtypes():
    """The two implementations take and return the same records, whose layout is C's."""
    assert vpmu.OP_DTYPE == vpmu.reference.OP_DTYPE
    assert vpmu.RESULT_DTYPE == vpmu.reference.RESULT_DTYPE
    assert vpmu.OP_DTYPE.names == ("op", "flags", "cpl", "cr4_pce", "address", "value")
    assert (vpmu.OP_DTYPE.itemsize, vpmu.RESULT_DTYPE.itemsize) == (16, 16)


def test_results(pmu_class):
    """Values and faults in order; a fault stops nothing."""
    pmu = pmu_class(vpmu.cpu("skylake"))
    results = pmu.execute(
        batch(
            (WRMSR, 0, 0, 0, 0xC1, 0xFFFFFFFF),
            (RDMSR, 0, 0, 0, 0xC1, 5),
            (WRMSR, 0, 0, 0, 0xC9, 1),
            (RDPMC, 0, 3, 1, 0, 0),
            (RDPMC, 0, 3, 0, 0, 0),
            (RDPMC, 0, 0, 0, 0, 0),
            (WRMSR, 0, 3, 1, 0xC1, 1),
            (RDMSR, 0, 1, 1, 0xC1, 0),
            (RDPMC, 0, 0, 0, 0x8000_0000, 0),
            (WRMSR, 0, 0, 0, 0x390, 1 << 63),
            (RDMSR, 0, 0, 0, 0xFFFFFFFF, 0),
        )
    )
    assert results.dtype == vpmu.reference.RESULT_DTYPE
    full = (1 << 48) - 1
    assert results["value"].tolist() == [0, full, 0, full, 0, full, 0, 0, 0, 0, 0]
    assert results["fault"].tolist() == [0, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1]
    assert pmu.rdmsr(0xC1) == full


def test_own_instruction(pmu_class):
    """SDM vol. 3B 18.2.2 with kvm-unit-tests x86/pmu.c: of two WRMSRs, the enabling one is counted."""
    pmu = pmu_class(vpmu.cpu("skylake"))
    pmu.wrmsr(0x38F, 0)
    pmu.wrmsr(0x186, 0xC0 | OS | EN)
    pmu.wrmsr(0x187, 0xC0 | USR | EN)
    pmu.execute(batch((WRMSR, SELF, 0, 0, 0x38F, 3), (WRMSR, SELF, 0, 0, 0x38F, 0)))
    assert [pmu.rdpmc(0), pmu.rdpmc(1)] == [1, 0]
    pmu.wrmsr(0x38F, 3)
    results = pmu.execute(
        batch(
            (RDMSR, SELF, 0, 0, 0xC1, 0),
            (RDMSR, SELF, 0, 0, 0xC1, 0),
            (RDMSR, 0, 0, 0, 0xC1, 0),
            (RDMSR, SELF, 0, 0, 0xC9, 0),  # faults: does not retire
            (RDPMC, SELF, 3, 1, 1, 0),
            (RDPMC, SELF, 3, 0, 1, 0),
            (RDPMC, SELF, 2, 1, 1, 0),
        )
    )
    assert results["value"].tolist() == [1, 2, 3, 0, 0, 0, 1]
    assert [pmu.rdpmc(0), pmu.rdpmc(1)] == [3, 2]


def test_own_instruction_overflows(pmu_class):
    """An instruction that counts itself can be the one that wraps the counter."""
    pmu = pmu_class(vpmu.cpu("skylake"))
    pmu.wrmsr(LVTPC, NMI)
    pmu.wrmsr(0x186, 0xC0 | OS | EN | INT)
    results = pmu.execute(batch((WRMSR, SELF, 0, 0, 0xC1, 0xFFFFFFFF), (RDMSR, 0, 0, 0, 0x38E, 0)))
    assert results["value"].tolist() == [0, 1]
    assert pmu.take_pmi() == ("nmi", 0)


def test_own_instruction_that_cannot_be_counted(pmu_class):
    """With CMASK a count needs a distribution per cycle: an error, after the instruction's effect."""
    pmu = pmu_class(vpmu.cpu("skylake"))
    with pytest.raises(ValueError, match="per_cycle"):
        pmu.execute(batch((WRMSR, SELF, 0, 0, 0x186, 0xC0 | OS | EN | 1 << 24), (WRMSR, 0, 0, 0, 0x38D, 1)))
    assert pmu.rdmsr(0x186) == 0xC0 | OS | EN | 1 << 24
    assert pmu.rdmsr(0x38D) == 0
    assert pmu.rdpmc(0) == 0


def test_own_instruction_freezes(pmu_class):
    """An instruction that wraps a counter freezes the PMU before the next one."""
    pmu = pmu_class(vpmu.cpu("skylake"))
    pmu.wrmsr(DEBUGCTL, 1 << 12)
    pmu.wrmsr(0x186, 0xC0 | OS | EN | INT)
    pmu.wrmsr(0xC1, 0xFFFFFFFE)
    results = pmu.execute(batch(*((RDMSR, SELF, 0, 0, 0xC1, 0) for _ in range(4))))
    full = (1 << 48) - 1
    assert results["value"].tolist() == [full - 1, full, 0, 0]
    assert pmu.rdmsr(0x38E) == 1 << 59 | 1


def test_own_instruction_of_amd(pmu_class):
    """The same on the other vendor: legacy and core addresses, RDPMC with its own index space."""
    for cpu in (ZEN1, GENOA):
        pmu = pmu_class(cpu)
        results = pmu.execute(
            batch(
                (WRMSR, SELF, 0, 0, ctl(1), 0xC0 | OS | EN),
                (RDMSR, SELF, 0, 0, 0xC0010005, 0),
                (RDPMC, SELF, 0, 0, 1, 0),
                (RDPMC, SELF, 0, 0, 0x4000_0000, 0),
                (WRMSR, SELF, 0, 0, 0x186, 0),
                (WRMSR, 0, 0, 0, ctr(1), 1 << 60 | 7),
            )
        )
        assert results["value"].tolist() == [0, 1, 2, 0, 0, 0]
        assert results["fault"].tolist() == [0, 0, 0, 1, 1, 0]
        assert gp(pmu)[1] == 7


def test_own_instruction_of_any_thread(pmu_class):
    """AnyThread needs the sibling's events, which a batch does not have: an error, after the instruction's effect."""
    pmu = pmu_class(model())
    with pytest.raises(ValueError, match="sibling"):
        pmu.execute(batch((WRMSR, SELF, 0, 0, 0x186, 0xC0 | OS | EN | 1 << 21), (WRMSR, 0, 0, 0, CTRL, 0)))
    assert pmu.rdmsr(CTRL) == 0xF
    assert pmu.rdmsr(0x186) >> 21 & 1


def test_shapes(pmu_class):
    """Empty, strided, reversed and read-only arrays."""
    pmu = pmu_class(vpmu.cpu("skylake"))
    assert len(pmu.execute(batch())) == 0
    ops = batch(*((WRMSR, 0, 0, 0, 0xC1 + i % 4, i) for i in range(8)))
    ops.flags.writeable = False
    assert not pmu.execute(ops[::2])["fault"].any()
    assert [pmu.rdpmc(i) for i in range(4)] == [4, 0, 6, 0]
    pmu.execute(ops[::-1])
    assert [pmu.rdpmc(i) for i in range(4)] == [0, 1, 2, 3]
    pmu.execute(ops[3:])
    assert [pmu.rdpmc(i) for i in range(4)] == [4, 5, 6, 7]


@pytest.mark.parametrize(
    "ops",
    [
        [(0, 0, 0, 0, 0xC1, 0)],
        np.zeros(3, np.uint64),
        np.zeros(3, [("op", np.uint8), ("address", np.uint32), ("value", np.uint64)]),
        np.zeros((2, 2), vpmu.reference.OP_DTYPE),
        np.zeros((), vpmu.reference.OP_DTYPE),
        None,
    ],
    ids=["list", "integers", "other-fields", "two-dimensions", "no-dimension", "none"],
)
def test_what_is_no_batch(pmu_class, ops):
    with pytest.raises((TypeError, ValueError)):
        pmu_class(vpmu.cpu("skylake")).execute(ops)


@pytest.mark.parametrize("bad", [(3, 0, 0, 0, 0xC1, 0), (255, 0, 0, 0, 0xC1, 0), (RDPMC, 0, 4, 1, 0, 0)])
def test_operations_that_do_not_exist(pmu_class, bad):
    """An unknown operation or privilege level is an error, and nothing is executed."""
    pmu = pmu_class(vpmu.cpu("skylake"))
    before = pmu.state()
    with pytest.raises(ValueError, match=r"op|cpl"):
        pmu.execute(batch((WRMSR, 0, 0, 0, 0xC1, 5), bad))
    assert pmu.state() == before


ADDRESSES = [
    0xC1,
    0xC2,
    0xC5,
    0x4C1,
    0x186,
    0x187,
    0x309,
    0x30A,
    0x38D,
    0x38E,
    0x38F,
    0x390,
    0x391,
    0x392,
    0x834,
]
#: Values that start things and values that fault; no CMASK, EDGE, ANY and IN_TX, whose counting is refused.
VALUES = [
    0,
    1,
    3,
    0xB,
    0x333,
    0x7_0000000F,
    0x4300C0,
    0x5300C0,
    0xFFFFFFFF,
    (1 << 48) - 1,
    1 << 59,
    0x400,
    1 << 63,
]
OPS = st.tuples(
    st.integers(0, 2),
    st.integers(0, 1),
    st.sampled_from([0, 0, 0, 1, 3]),
    st.integers(0, 1),
    st.sampled_from([*ADDRESSES, 0, 1, 4, 0x4000_0000, 0x4000_0003, 0x8000_0000]),
    st.sampled_from(VALUES),
)


@given(ops=st.lists(OPS, max_size=30))
def test_batch_is_scalar(pmu_class, ops):
    """A batch returns and leaves what the same instructions do one by one."""
    cpu = vpmu.cpu("skylake")
    batched, scalar = pmu_class(cpu), pmu_class(cpu)
    results = batched.execute(batch(*ops))
    for (op, flags, cpl, cr4_pce, address, value), result in zip(ops, results.tolist(), strict=True):
        got = 0
        try:
            if op == RDPMC:
                got = scalar.rdpmc(address, cpl, bool(cr4_pce))
            elif cpl > 0:
                raise vpmu.GeneralProtectionFault(address, None, "privileged")
            elif op == WRMSR:
                scalar.wrmsr(address, value)
            else:
                got = scalar.rdmsr(address)
        except vpmu.GeneralProtectionFault:
            assert result == (0, 1)
            continue
        if flags & SELF:
            scalar.count({"instructions": 1}, cpl=cpl)
        assert result == (got, 0)
    assert batched.state() == scalar.state()
