"""Open questions about KVM's PMU that concern the registers alone; the number of the question is in the name.

Sources: Linux arch/x86/kvm/x86.c (kvm_get_msr_common(), kvm_set_msr_common()), arch/x86/kvm/pmu.c, vmx/pmu_intel.c.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

import vpmu

INERT = (0xC1, 0xC2, 0x186, 0x187, *range(0xC0010000, 0xC0010008))
#: What no guest of its vendor has an inert MSR for: a third counter, F15H's, the global registers.
FAULTING = (0xC3, 0x188, 0xC0010200, 0xC0010201, 0x38F, 0x309, 0xC0000301)
MakePmu = Callable[[vpmu.CpuModel], vpmu.Pmu]


def faults(pmu: vpmu.Pmu, msr: int) -> tuple[bool, bool]:
    """Whether a read and a write fault."""
    found = []
    for access in (lambda: pmu.rdmsr(msr), lambda: pmu.wrmsr(msr, 0)):
        try:
            access()
            found.append(False)
        except vpmu.GeneralProtectionFault:
            found.append(True)
    return found[0], found[1]


@pytest.mark.parametrize("name", ["skylake", "genoa"])
def test_q20_rdpmc_of_a_counter_that_is_not_there_faults_on_both_vendors(pmu_class: MakePmu, name: str) -> None:
    """Whether it faults before the VM-exit (AMD) or in KVM after it (Intel) makes no difference to the guest."""
    pmu = pmu_class(vpmu.cpu(name))
    absent = range(4 if name == "skylake" else 40, 64)  # skylake has 4 with hyper-threading on
    for index in (*absent, 1 << 20, 1 << 30 | 9, 0xFFFFFFFF):
        with pytest.raises(vpmu.GeneralProtectionFault) as fault:
            pmu.rdpmc(index)
        assert fault.value.instruction == "RDPMC"
        assert fault.value.msr == index


def test_q22_migration_restores_a_counter_that_a_guest_could_not_write(pmu_class: MakePmu) -> None:
    """A write of the guest's is sign-extended from bit 31, one of the VMM's is not (pmc_write_counter())."""
    cpu = vpmu.cpu("skylake")
    source = pmu_class(cpu)
    source.wrmsr(0x4C1, 0x80000000)
    target = type(source).from_state(cpu, source.state())
    assert target.rdmsr(0xC1) == target.rdpmc(0) == 0x80000000
    target.wrmsr(0xC1, target.rdmsr(0xC1))  # what saving and restoring by the guest's own instructions would do
    assert target.rdmsr(0xC1) == 0xFFFF80000000


@pytest.mark.parametrize("name", ["alderlake-p", "skylake"])
def test_q25_where_kvm_would_silently_give_no_pmu_vpmu_says_so(tmp_path: Path, name: str) -> None:
    """A guest without leaf 0AH, as KVM makes one on a hybrid host, is design none; no model without counters exists."""
    cpu = vpmu.cpu(name)
    lines = ["CPU 0:"]
    for leaf in (0, 1, 7, 0xA):
        words = (0, 0, 0, 0) if leaf == 0xA else cpu.cpuid(leaf)
        lines.append(
            f"   {leaf:#010x} 0x00: eax={words[0]:#010x} ebx={words[1]:#010x} ecx={words[2]:#010x} edx={words[3]:#010x}"
        )
    dump = tmp_path / "cpuid.txt"
    dump.write_text("\n".join(lines) + "\n")
    with pytest.raises(vpmu.VpmuError, match=r"0AH|0xa|version 0"):
        vpmu.CpuModel.from_cpuid(dump)
    with pytest.raises(vpmu.ScenarioError, match="gp_mask 0x0 must have 1 to 16 counters"):
        dataclasses.replace(cpu, gp_mask=0)
    guest = vpmu.simulate(vpmu.Scenario(cpu="skylake", design="none", guest_perf=(), seconds="0.001"))
    assert guest.counters == ()
    assert guest.raw["pmu_exits"] == dict.fromkeys(guest.raw["pmu_exits"], 0)


@pytest.mark.parametrize("name", ["skylake", "genoa", "k8", "yonah"])
def test_q26_the_registers_that_never_fault(pmu_class: MakePmu, name: str) -> None:
    """Where a vCPU has no such register a read is 0 and a write is ignored; all others fault as ever."""
    cpu = dataclasses.replace(vpmu.cpu(name), quirks=vpmu.cpu(name).quirks | {"kvm_inert_msrs"})
    hardware, kvm = pmu_class(vpmu.cpu(name)), pmu_class(cpu)
    absent = [msr for msr in INERT if faults(hardware, msr)[0]]
    assert absent
    before = kvm.state()
    for msr in absent:
        assert faults(kvm, msr) == (False, False)
        kvm.wrmsr(msr, (1 << 64) - 1)
        assert kvm.rdmsr(msr) == 0
    assert {k: v for k, v in kvm.state().items() if k != "cpu"} == {k: v for k, v in before.items() if k != "cpu"}
    for msr in FAULTING:
        assert faults(kvm, msr) == faults(hardware, msr)
    assert any(faults(kvm, msr)[0] for msr in FAULTING)


def test_q26_on_a_guest_with_few_counters_the_second_is_inert(pmu_class: MakePmu) -> None:
    cpu = dataclasses.replace(vpmu.cpu("skylake"), gp_mask=1, quirks=frozenset({"kvm_inert_msrs"}))
    pmu = pmu_class(cpu)
    pmu.wrmsr(0x187, 0x4300C0)
    pmu.wrmsr(0x186, 0x4300C0)
    pmu.wrmsr(0xC2, 5)
    pmu.count({"instructions": 7})
    assert [pmu.rdmsr(msr) for msr in (0x186, 0x187, 0xC1, 0xC2)] == [0x4300C0, 0, 7, 0]
    with pytest.raises(vpmu.GeneralProtectionFault):
        pmu.rdpmc(1)


def test_q27_a_guest_cannot_change_what_its_pmu_can_do(pmu_class: MakePmu) -> None:
    """A write by the VMM makes another PMU (kvm_pmu_refresh()); one by the guest faults, and nothing changes."""
    cpu = vpmu.cpu("skylake")
    pmu = pmu_class(cpu)
    pmu.wrmsr(0x4C1, 77)
    for value in (pmu.rdmsr(0x345), 0, (1 << 64) - 1):
        with pytest.raises(vpmu.GeneralProtectionFault):
            pmu.wrmsr(0x345, value)
    assert pmu.rdmsr(0x4C1) == 77
    assert pmu.rdmsr(0x345) == cpu.perf_capabilities


def test_q27_misc_enable_keeps_its_read_only_bits(pmu_class: MakePmu) -> None:
    """A KVM guest's write of bit 7 (EMON) is ignored; changing 11 or 12 (BTS, PEBS unavailable) faults."""
    pmu = pmu_class(dataclasses.replace(vpmu.cpu("skylake"), misc_enable_ignored=1 << 7))
    before = pmu.rdmsr(0x1A0)
    assert before >> 7 & 1
    pmu.wrmsr(0x1A0, before ^ 1 << 7)
    assert pmu.rdmsr(0x1A0) == before
    for bit in (11, 12):
        with pytest.raises(vpmu.GeneralProtectionFault):
            pmu.wrmsr(0x1A0, before ^ 1 << bit)
