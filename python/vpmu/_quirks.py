"""Oddities of real PMUs, each a named switch of :class:`vpmu.CpuModel` (docs/pmu.md says what each does, exactly)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

#: One line about each quirk. Sources: Linux arch/x86/events, kvm-unit-tests, V. Weaver, "Non-determinism and overcount
#: on modern hardware performance counter implementations" (ISPASS 2013), VirtualBox's CPU database, Intel's event
#: files.
QUIRKS: Mapping[str, str] = MappingProxyType(
    {
        "irq_overcount": "each return from an interrupt or exception counts as one more user-mode instruction",
        "atom_far_overcount": "far transfers count once more as an instruction and as a branch (Atom errata)",
        "atom_far_overcount_instructions": "far transfers count once more as an instruction (erratum SRF7)",
        "amd_vmrun_branch": "VMRUN counts as a branch of the guest",
        "amd_1292": "retire events may overcount, except on counter 2 with bit 43 set and INT clear (erratum 1292)",
        "zen4_status_rsvd": "an overflow also sets the reserved status bit 7 (old microcode)",
        "amd_status_set_extra": "GlobalStatusSet and GlobalCtl latch bits 7:6, and GlobalStatusSet 59:58 always",
        "amd_late_nmi": "an overflow while a PMI is pending raises another one, which finds nothing to do",
        "evtsel_sticky": "reserved bits 43:42 of PERF_CTL hold what is written",
        "ht_halves_gp": "with hyper-threading on, a thread has half of its core's general-purpose counters",
        "ht_leak": "events D0H-D3H that the sibling counts leak into this thread's same counter (BJ122, BV98, HSD29)",
        "hsw11_bdm11": "INST_RETIRED.ALL cannot be sampled with periods below 128 (errata HSW11, BDM11, BDM55)",
        "min_period32": "sampling with periods below 32 raises more PMIs than samples; software must not",
        "tfa": "microcode borrows counter 3 for transactions unless RTM_FORCE_ABORT is set",
        "cpuid_fixed": "CPUID.0AH reports fewer fixed counters than there are",
        "nhm_enable": "until GLOBAL_CTRL was once 0, counters may count core cycles (errata AAK100, AAP53, BD53)",
        "smm_user": "counters of user code see system management mode",
        "freeze_late": "freeze-on-PMI takes effect when the PMI is delivered, not at the overflow (old microcode)",
        "txcp_spurious": "an IN_TXCP counter that wraps in an aborted transaction raises a PMI without a status bit",
        "pmi_skid": "a PMI arrives some cycles after its overflow: the distribution is the model's skid",
        "rdpmc_ooo": "RDPMC may miss the last event in flight",
        "gldm_any": "AnyThread bits can be written and do nothing",
        "reserved_ignore": "reserved bits of control registers are dropped instead of faulting (Merom)",
        "penryn_global": "GLOBAL_CTRL holds any value, and the status reset register reads all ones (Penryn)",
        "p6_perfctr_raz": "C1H and C2H read 0 and drop writes where the counter does not exist (KVM)",
        "kvm_inert_msrs": "C1H, C2H, 186H, 187H and C0010000H-7H read 0 and drop writes where they do not exist (KVM)",
        "ref_xclk": "event 3CH/01H counts the bus or crystal clock, not the TSC's",
        "reftsc_sticky_ovf": "the overflow bit of fixed counter 2 may set once more after it was cleared",
    }
)


def quirks() -> Mapping[str, str]:
    """One line about each quirk that a CPU model can have, by name.

    Returns
    -------
    mapping of str to str
        Read-only. See :attr:`CpuModel.quirks` and :meth:`CpuModel.with_quirks`.
    """
    return QUIRKS
