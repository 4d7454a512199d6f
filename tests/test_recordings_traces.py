"""Traces of ftrace, ``trace-cmd`` and ``perf script``, real and synthetic."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from recorded_files import SYNTHETIC, TASK, names, real, said, trace_of, write

from vpmu._errors import RecordingError
from vpmu.recordings import parse_recording


def test_real_two_vcpus_of_a_nested_guest() -> None:
    trace = trace_of(real("14"))
    assert (trace.vcpu, trace.vcpus, trace.dialect) == (1, (0, 1), "ftrace")
    assert said(trace, "2 vCPUs")
    assert said(trace, "9 of 12 exits")
    first = ["CR_ACCESS", "CR_ACCESS", "CPUID", "MSR_READ", "MSR_WRITE"]
    assert names(trace) == [*first, "CR_ACCESS", "EXTERNAL_INTERRUPT", "MSR_WRITE", "LDTR_TR"]
    assert trace.exit_ns.tolist() == [us * 1000 for us in (0, 115, 135, 143, 151, 170, 208, 228, 280)]
    assert trace.entry_ns.tolist() == [us * 1000 for us in (95, 125, 135, 144, 154, 196, 217, 229, 280)]
    assert trace.handled.tolist() == [True] * 8 + [False]
    assert trace.msr.tolist() == [-1, -1, -1, 0xC0000080, 0xC0000080, -1, -1, 0xC0000103, -1]
    assert trace.msr_write.tolist() == [False] * 4 + [True, False, False, True, False]
    assert trace.length_ns == 280_000
    assert trace.skipped_lines == trace.dropped_pmu == 0

    other = trace_of(real("14"), vcpu=0)
    assert names(other) == ["EXTERNAL_INTERRUPT"] * 3
    assert other.exit_ns.tolist() == [0, 27_000, 41_000]
    assert other.entry_ns.tolist() == [14_000, 35_000, 41_000]
    assert other.handled.all()
    assert not said(other, "vCPUs")
    with pytest.raises(RecordingError, match=r"no exits of vCPU 2; those with exits: 0, 1"):
        parse_recording(real("14"), vcpu=2)


def test_real_old_format() -> None:
    trace = trace_of(real("16"))
    assert (trace.vcpu, trace.vcpus, len(trace)) == (0, (0,), 10)
    assert trace.exit_ns.tolist() == [us * 1000 for us in (0, 2, 5, 70, 72, 148, 150, 151, 153, 156)]
    assert trace.entry_ns.tolist() == [us * 1000 for us in (1, 3, 59, 70, 147, 149, 150, 152, 155, 156)]
    assert names(trace)[7] == "PENDING_INTERRUPT"
    assert trace.handled.tolist() == [True] * 9 + [False]


def test_real_fragments_with_userspace_exits_and_a_cut_line() -> None:
    trace = trace_of(real("17"))
    assert trace.skipped_lines == 1
    assert said(trace, "line 18")
    assert names(trace) == ["EXTERNAL_INTERRUPT", "IO_INSTRUCTION", "IO_INSTRUCTION", "HLT", "HLT"]
    # 83184.290326 is the first entry; the second fragment, of another process, goes on at .290414.
    assert trace.exit_ns.tolist() == [6_000, 11_000, 58_000, 90_000, 106_000]
    assert trace.entry_ns.tolist() == [8_000, 56_000, 88_000, 105_000, 106_000]
    assert trace.userspace.tolist() == [False, True, True, True, True]
    assert trace.handled.tolist() == [True] * 4 + [False]
    assert (trace.segments, trace.dropped_ns) == (2, 6477_991_529_000)
    assert said(trace, "6477.991529 s")


def test_real_msr_accesses_without_exits() -> None:
    trace = trace_of(real("18"))
    # The threads' names tell the vCPUs' numbers: CPU 2/KVM comes before CPU 1/KVM.
    assert (trace.vcpu, trace.vcpus, trace.dialect) == (0, (0, 1, 2, 3), "perf-script")
    assert trace.msr.tolist() == [0x6E0, 0x6E0, 0x830, 0x6E0, 0x3B, 0x6E0, 0x1B]
    assert names(trace) == ["MSR_WRITE"] * 4 + ["MSR_READ", "MSR_WRITE", "MSR_READ"]
    assert not trace.handled.any()
    assert trace.exit_ns.tolist() == [0, 3_000, 40_000, 87_000, 95_000, 165_000, 165_000]
    assert (trace.segments, trace.dropped_ns) == (2, 10_301_911_403_000)
    second = trace_of(real("18"), vcpu=2)
    assert second.msr.tolist() == [0x6E0, 0x6E0, 0x1B]
    # The gap, from .258218 to .169621, ends 2,311 us before the last one.
    assert second.exit_ns.tolist() == [0, 28_000, 2_405_000]
    assert trace_of(real("18"), vcpu=3).length_ns == 0


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("01", "perf-prof"),
        ("02", "bcc's kvmexit"),
        ("03", "kvm_hypercall"),
        ("10", "--event=msr"),
        ("12", "SystemTap"),
        ("13", "kvm_stat"),
        ("19", "no recording"),
        ("20", "perf stat"),
    ],
)
def test_real_near_dialects_are_named(number: str, words: str) -> None:
    with pytest.raises(RecordingError, match=words):
        parse_recording(real(number))


@pytest.mark.parametrize("name", ["ftrace_old.txt", "ftrace_crlf.txt"])
def test_old_ftrace(name: str) -> None:
    trace = trace_of(SYNTHETIC / name)
    assert names(trace) == ["EXTERNAL_INTERRUPT", "IO_INSTRUCTION", "UNKNOWN", "HLT"]
    # The PMI (vector 0xf5) from 60 to 68 us is gone with its 8 us.
    assert trace.exit_ns.tolist() == [10_000, 20_000, 62_000, 72_000]
    assert trace.entry_ns.tolist() == [12_000, 55_000, 63_000, 72_000]
    assert trace.userspace.tolist() == [False, True, False, False]
    assert trace.handled.tolist() == [True, True, True, False]
    assert trace.dropped_pmu == 1
    assert trace.length_ns == 72_000


def test_new_ftrace_drops_the_pmu_with_its_time() -> None:
    trace = trace_of(SYNTHETIC / "ftrace_new.txt")
    assert (trace.vcpu, trace.vcpus) == (0, (0, 1))
    assert names(trace) == ["MSR_WRITE", "MSR_READ", "EXTERNAL_INTERRUPT", "HLT"]
    # Dropped: WRMSR GLOBAL_CTRL 12..17, RDPMC 30..33, PMI 40..44.
    assert trace.exit_ns.tolist() == [0, 15_000, 38_000, 68_000]
    assert trace.entry_ns.tolist() == [2_000, 18_000, 63_000, 968_000]
    assert trace.msr.tolist() == [0x6E0, 0xC0000080, -1, -1]
    assert trace.msr_write.tolist() == [True, False, False, False]
    assert trace.dropped_pmu == 3
    assert said(trace, "3 exits of the PMU")
    # Waiting for a CPU counts, sleeping in HLT does not.
    assert trace.preempted_ns == 20_000
    assert said(trace, "0.00002 s")
    assert trace_of(SYNTHETIC / "ftrace_new.txt", vcpu=1).entry_ns.tolist() == [13_000]


def test_two_vms_and_a_gap() -> None:
    trace = trace_of(SYNTHETIC / "ftrace_two_vms.txt")
    assert trace.vcpus == (0, 1)
    assert said(trace, "several VMs")
    assert said(trace, "lost events in 1 place")
    assert trace.exit_ns.tolist() == [0, 10_000, 14_000]
    assert trace.entry_ns.tolist() == [2_000, 14_000, 15_000]
    assert (trace.segments, trace.dropped_ns) == (2, 59_999_996_000)
    assert names(trace_of(SYNTHETIC / "ftrace_two_vms.txt", vcpu=1)) == ["HLT"]


def test_trace_cmd_with_nanoseconds_of_an_amd_host() -> None:
    trace = trace_of(SYNTHETIC / "trace_cmd.txt")
    assert trace.vcpu == 1
    assert names(trace) == ["EXIT_NPF", "EXIT_MSR", "EXIT_HLT"]
    # Dropped: RDMSR of PERF_CTR0 for 500 ns, RDPMC for 250 ns.
    assert trace.exit_ns.tolist() == [0, 1_999, 4_249]
    assert trace.entry_ns.tolist() == [1_500, 2_776, 5_249]
    assert trace.msr_write.tolist() == [False, True, False]
    assert trace.dropped_pmu == 2
    assert trace.preempted_ns == 500
    assert said(trace, "1 MSR exit without the MSR's number")


def test_perf_script_with_threads_and_call_chains() -> None:
    trace = trace_of(SYNTHETIC / "perf_script.txt")
    assert (trace.dialect, trace.vcpu, trace.vcpus) == ("perf-script", 0, (0, 2))
    assert names(trace) == ["EPT_MISCONFIG", "MSR_WRITE"]
    assert trace.exit_ns.tolist() == [0, 16_000]
    assert trace.entry_ns.tolist() == [6_000, 18_000]
    assert trace.msr.tolist() == [-1, 0x830]
    assert trace.skipped_lines == 0  # comments and lines without an event are no candidates
    other = trace_of(SYNTHETIC / "perf_script.txt", vcpu=2)
    assert (other.entry_ns.tolist(), other.preempted_ns) == ([600_000], 100_000)


def test_msr_accesses_without_exits() -> None:
    trace = trace_of(SYNTHETIC / "perf_script_msr.txt")
    assert (trace.vcpu, trace.vcpus) == (3, (0, 3))  # by the thread's name; the other thread in order
    assert trace.msr.tolist() == [0x6E0, 0x830, 0x3B]
    assert not trace.handled.any()
    assert np.array_equal(trace.exit_ns, trace.entry_ns)
    assert trace.exit_ns.tolist() == [0, 10_000, 30_000]
    assert (trace.dropped_pmu, trace.skipped_lines, trace.segments) == (1, 1, 2)


def test_every_pmu_msr_is_dropped(tmp_path: Path) -> None:
    dropped = [0xC1, 0xC8, 0x186, 0x18D, 0x309, 0x318, 0x329, 0x345, 0x38D, 0x38E, 0x38F, 0x390, 0x392]
    dropped += [0x3F1, 0x3F5, 0x4C1, 0x4C8, 0x834, 0x1900, 0x1983, 0x19FF, 0xC0000300, 0xC0000303]
    dropped += [0xC0010000, 0xC0010007, 0xC0010200, 0xC001020B]
    kept = [0xC0, 0xC9, 0x185, 0x18E, 0x308, 0x319, 0x38C, 0x393, 0x4C0, 0x4C9, 0x6E0, 0x830, 0x833, 0x835]
    kept += [0x18FF, 0x1A00, 0xC00002FF, 0xC0000304, 0xC000FFFF, 0xC0010008, 0xC00101FF, 0xC001020C]
    lines = [f"{TASK}1.{n:06d}: kvm_msr: msr_write {msr:x} = 0x0\n" for n, msr in enumerate(dropped + kept)]
    trace = trace_of(write(tmp_path / "t", "".join(lines)))
    assert trace.msr.tolist() == kept
    assert trace.dropped_pmu == len(dropped)


def test_lost_entries_and_exits(tmp_path: Path) -> None:
    text = (
        f"{TASK}1.000000: kvm_exit: reason CPUID rip 0x1 info 0 0\n"
        f"{TASK}1.000003: kvm_exit: reason HLT rip 0x1 info 0 0\n"  # the entry before it is missing
        f"{TASK}1.000005: kvm_entry: vcpu 7, rip 0x1\n"
        f"{TASK}1.000009: kvm_entry: vcpu 7, rip 0x1\n"  # the exit before it is missing
        f"{TASK}1.000008: kvm_exit: reason INVD rip 0x1 info 0 0\n"  # out of order
        f"{TASK}1.000011: kvm_exit: reason VMCALL"  # cut
    )
    trace = trace_of(write(tmp_path / "t", text))
    assert (names(trace), trace.vcpu) == (["CPUID", "HLT"], 7)
    assert trace.exit_ns.tolist() == [0, 3_000]
    assert trace.entry_ns.tolist() == [0, 5_000]
    assert trace.handled.tolist() == [False, True]
    assert trace.length_ns == 9_000
    assert trace.skipped_lines == 2


def test_an_exit_that_spans_a_gap_loses_its_time(tmp_path: Path) -> None:
    text = (
        f"{TASK}1.000000: kvm_exit: reason HLT rip 0x1 info 0 0\n"
        f"{TASK}3.000000: kvm_entry: vcpu 0\n"
        f"{TASK}3.000007: kvm_exit: reason HLT rip 0x1 info 0 0\n"
        f"{TASK}3.900000: sched_switch: other lines show that the tracer was on\n"
        f"{TASK}4.800000: kvm_entry: vcpu 0\n"
    )
    trace = trace_of(write(tmp_path / "t", text))
    assert trace.handled.tolist() == [False, True]
    assert trace.exit_ns.tolist() == [0, 7_000]
    assert trace.entry_ns.tolist() == [0, 1_800_000_000]
    assert (trace.segments, trace.dropped_ns) == (2, 2_000_000_000)


def test_waiting_is_at_most_all_of_the_handling(tmp_path: Path) -> None:
    switch = "sched_switch: prev_pid={} prev_state={} ==> next_comm=x next_pid={} next_prio=120\n"
    text = (
        f"{TASK}1.000010: kvm_exit: reason HLT rip 0x1 info 0 0\n"
        f"{TASK}1.000002: {switch.format(1, 'R', 2)}"  # out of order
        f"{TASK}1.000012: {switch.format(2, 'S', 1)}"
        f"{TASK}1.000015: kvm_entry: vcpu 0\n"
    )
    assert trace_of(write(tmp_path / "t", text)).preempted_ns == 5_000


def test_clock_of_the_epoch_and_time_going_back(tmp_path: Path) -> None:
    pair = "{0}{1}.{2:06d}: kvm_exit: reason HLT rip 0x1\n{0}{1}.{3:06d}: kvm_entry: vcpu 0\n"
    text = pair.format(TASK, 1_700_000_000, 5, 9) + pair.format(TASK, 12, 0, 3)
    trace = trace_of(write(tmp_path / "t", text))
    assert trace.exit_ns.tolist() == [0, 4_000]
    assert trace.entry_ns.tolist() == [4_000, 7_000]
    assert (trace.segments, trace.dropped_ns) == (2, 0)


def test_mostly_unreadable_trace(tmp_path: Path) -> None:
    text = f"{TASK}1.000000: kvm_entry: vcpu 0\n" + f"{TASK}1.000001: kvm_exit: TRAP: HSR_EC: 0x24\n" * 2
    with pytest.raises(RecordingError, match="2 of 3 lines") as caught:
        parse_recording(write(tmp_path / "t", text))
    assert caught.value.line == 2
    text = "[001] 1.000000: kvm:kvm_entry: vcpu 0\n[001] 1.000003: kvm:kvm_exit: vcpu 0 reason HLT rip 0x1\n"
    with pytest.raises(RecordingError, match="none can be read") as caught:
        parse_recording(write(tmp_path / "t", text))
    assert caught.value.line == 1


def test_entries_alone_are_nothing(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no exits left"):
        parse_recording(write(tmp_path / "t", f"{TASK}1.000000: kvm_entry: vcpu 0\n"))
    text = f"{TASK}1.000000: kvm_msr: msr_read c1 = 0x0\n"
    with pytest.raises(RecordingError, match="only 1 exit of the PMU itself"):
        parse_recording(write(tmp_path / "t", text))


def test_too_many_threads(tmp_path: Path) -> None:
    lines = (f" q-{n} [000] d... 1.000000: kvm_exit: reason HLT rip 0x1\n" for n in range(4097))
    with pytest.raises(RecordingError, match="4096 vCPU threads") as caught:
        parse_recording(write(tmp_path / "t", "".join(lines)))
    assert caught.value.line == 4097


def test_arrays_are_read_only_and_typed() -> None:
    trace = trace_of(SYNTHETIC / "ftrace_new.txt")
    kinds = {
        "exit_ns": np.int64,
        "entry_ns": np.int64,
        "reason": np.uint16,
        "msr": np.int64,
        "msr_write": np.bool_,
        "userspace": np.bool_,
        "handled": np.bool_,
    }
    for name, kind in kinds.items():
        column = getattr(trace, name)
        assert column.dtype == kind
        assert column.shape == (4,)
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 0
    again = pickle.loads(pickle.dumps(trace))
    assert np.array_equal(again.exit_ns, trace.exit_ns)
    assert again.messages == trace.messages
