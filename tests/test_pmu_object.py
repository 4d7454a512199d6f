"""A PMU as a Python object: what makes one, what refuses to, what its errors say."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import vpmu
import vpmu.reference

CPU = vpmu.cpu("sapphirerapids")


class Labelled(vpmu.Pmu):
    """A subclass that does not care for the arguments of its base."""

    def __init__(self, cpu, label=""):
        self.label = label


def test_a_pmu_has_registers_whatever_its_subclass_does():
    """Without a model there is none; with one there are registers before __init__."""
    with pytest.raises(TypeError):
        vpmu.Pmu.__new__(vpmu.Pmu)
    for pmu in (vpmu.Pmu.__new__(vpmu.Pmu, CPU), Labelled(CPU, "mine")):
        assert pmu.rdmsr(0x38F) == 0xFF


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda pmu: pickle.loads(pickle.dumps(pmu))])
def test_copies_keep_their_class(duplicate):
    pmu = Labelled(CPU)
    pmu.wrmsr(0xC1, 5)
    twin = duplicate(pmu)
    assert type(twin) is Labelled
    assert twin.rdpmc(0) == 5


@pytest.mark.parametrize("cpu", ["skylake", None, 5])
def test_what_is_no_model(cpu):
    with pytest.raises(TypeError, match=r"cpu must be a CpuModel, such as vpmu\.cpu"):
        vpmu.Pmu(cpu)


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_seeds_out_of_range(pmu_class, seed):
    with pytest.raises(OverflowError, match="seed must be"):
        pmu_class(CPU, seed=seed)


def test_state_of_other_quirks(pmu_class):
    """A model of the same name with other quirks is another model."""
    other = CPU.with_quirks(irq_overcount=True)
    assert other.name == CPU.name
    with pytest.raises(ValueError, match="quirks is"):
        pmu_class.from_state(other, pmu_class(CPU).state())


def test_skid_without_its_quirk(pmu_class):
    """A stream of skids belongs to a model that has skid."""
    still = CPU.with_quirks(pmi_skid=False)
    assert pmu_class(still, seed=3).state()["skid"] == ()
    state = pmu_class(CPU, seed=3).state()
    assert len(state["skid"]) == 4
    with pytest.raises(ValueError, match="skid"):
        pmu_class.from_state(still, state | {"quirks": pmu_class(still).state()["quirks"]})


def test_messages_of_accesses(pmu_class):
    """They name the instruction, the argument and the bound."""
    pmu = pmu_class(CPU)
    with pytest.raises(vpmu.GeneralProtectionFault, match=r"#GP\(0\): RDPMC 0x40: there is no such counter") as caught:
        pmu.rdpmc(64)
    assert caught.value.instruction == "RDPMC"
    assert pickle.loads(pickle.dumps(caught.value)).instruction == "RDPMC"
    with pytest.raises(vpmu.GeneralProtectionFault, match="MSR 0x38e <- 0x1: IA32_PERF_GLOBAL_STATUS"):
        pmu.wrmsr(0x38E, 1)
    with pytest.raises(OverflowError, match=r"msr must be an integer in \[0, 2\*\*32\), not -1"):
        pmu.rdmsr(-1)
    with pytest.raises(OverflowError, match=r"value must be an integer in \[0, 2\*\*64\), not 18446744073709551616"):
        pmu.wrmsr(0xC1, 1 << 64)


def test_counters_8_and_9_have_names():
    """Version 6 has ten counters, and their registers names for messages."""
    pmu = vpmu.Pmu(vpmu.cpu("lunarlake-p"))
    for msr, name in ((0x18F, "IA32_PERFEVTSEL9"), (0x4CA, "IA32_A_PMC9"), (0x1927, "IA32_PMC_GP9_CFG_C")):
        with pytest.raises(vpmu.GeneralProtectionFault) as caught:
            pmu.wrmsr(msr, 1 << 63)
        assert name in str(caught.value) or msr == 0x1927  # which exists with auto-counter-reload only


def test_operations_with_unknown_flags(pmu_class):
    pmu = pmu_class(CPU)
    ops = np.zeros(2, vpmu.OP_DTYPE)
    ops["op"], ops["address"], ops["value"] = 1, 0xC1, 7
    ops["flags"][1] = 2
    with pytest.raises(ValueError, match="flags of an operation must be 0 to 1, not 2"):
        pmu.execute(ops)
    assert pmu.rdpmc(0) == 0


def test_a_refused_instruction_says_which():
    """The operations before it have had their effect."""
    pmu = vpmu.Pmu(CPU)
    ops = np.zeros(3, vpmu.OP_DTYPE)
    ops["op"], ops["flags"] = 1, [0, 1, 0]
    ops["address"], ops["value"] = [0xC1, 0x186, 0xC2], [7, 0x14300C0, 9]
    with pytest.raises(ValueError, match="operation 1 of 3: PMC0, selector 0x14300c0: CMASK"):
        pmu.execute(ops)
    assert (pmu.rdpmc(0), pmu.rdpmc(1)) == (7, 0)


@pytest.mark.parametrize("shares", [{0: 1}, "ab", 5, None])
def test_distributions_that_are_no_sequences(pmu_class, shares):
    with pytest.raises(TypeError):
        pmu_class(CPU).count({}, cycles=1, per_cycle={"instructions": shares})


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"sibling": {}, "sibling_cycles": -1}, "sibling_cycles must not be negative"),
        ({"sibling": {}, "sibling_cpl": 9}, "sibling_cpl must be 0 to 3, not 9"),
        ({"sibling": {"cycles": 1}, "sibling_cycles": 1}, "given twice"),
    ],
)
def test_messages_name_the_siblings_arguments(pmu_class, keywords, message):
    with pytest.raises(ValueError, match=message):
        pmu_class(CPU).count({}, **keywords)


def test_guest_mode_needs_svm(pmu_class):
    """CPUID.80000001H:ECX.SVM; K8 before it, and every Intel part, have no such mode."""
    for name in ("k8", "skylake"):
        cpu = vpmu.cpu(name)
        if "svm" in cpu.features:
            continue
        with pytest.raises(ValueError, match="has no SVM"):
            pmu_class(cpu).set_mode(svme=True)
        pmu_class(cpu).set_mode(svme=False, guest=False)
    pmu_class(vpmu.cpu("milan")).set_mode(svme=True, guest=True)
