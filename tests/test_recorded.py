"""Recordings bound to what they do not say: length, vCPUs, rates; and how they are replayed."""

from __future__ import annotations

import contextlib
import io
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vpmu
from vpmu import testing
from vpmu._workload import Exact
from vpmu.cli import main

RECORDINGS = Path(__file__).resolve().parent / "recordings"
TABLE = RECORDINGS / "table_report.txt"
TRACES = ("ftrace_crlf", "ftrace_new", "ftrace_old", "ftrace_two_vms", "perf_script", "perf_script_msr", "trace_cmd")
CPU = vpmu.cpu("sapphirerapids")
HZ = CPU.core_hz.value
TRANSITION = CPU.costs["vm_exit"].value + CPU.costs["vm_entry"].value


def trace(path: Path, exits: list[tuple[int, int, str]]) -> Path:
    """Write a trace of (guest us, handling us, reason), with an entry before the first exit."""
    now = 7_000_000
    lines = [f"kvm-1 [000] d... {now / 1e6:.6f}: kvm_entry: vcpu 0, rip 0x1"]
    for guest, handling, reason in exits:
        now += guest
        lines.append(f"kvm-1 [000] d... {now / 1e6:.6f}: kvm_exit: vcpu 0 reason {reason} rip 0x1 info1 0x0 info2 0x0")
        now += handling
        lines.append(f"kvm-1 [000] d... {now / 1e6:.6f}: kvm_entry: vcpu 0, rip 0x1")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def none(recorded: vpmu.Recorded, **options: Any) -> vpmu.Result:
    return vpmu.simulate(vpmu.Scenario(design="none", workload=recorded, **options))


# -- traces -----------------------------------------------------------------------------------------------------------


@given(
    exits=st.lists(
        st.tuples(
            st.integers(1, 5000),
            st.integers(1, 900),
            st.sampled_from(["CPUID", "EXTERNAL_INTERRUPT", "MSR_READ", "HLT"]),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_row_none_takes_the_time_and_the_exits_of_the_trace(
    exits: list[tuple[int, int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    recorded = vpmu.read_recording(trace(tmp_path_factory.getbasetemp() / "trace.txt", exits))
    length = Fraction(sum(guest + handling for guest, handling, _ in exits), 10**6)
    assert recorded.trace_seconds == length
    result = none(recorded)
    assert result.scenario.seconds == length
    assert sum(result.exits.values()) == len(exits)
    for reason in {reason for _, _, reason in exits}:
        assert result.exits[reason] == sum(name == reason for _, _, name in exits)
    # The first entry is not in the trace; times are rounded to cycles.
    wall = sum(result.cycles.values())
    end = round(length * HZ)
    assert end <= wall <= end + TRANSITION
    # Guest time is what lies between the tracepoints, less the transitions, which they do not see.
    guest = sum(round(Fraction(guest * HZ, 10**6)) - TRANSITION for guest, _, _ in exits)
    assert result.cycles["guest_user"] + result.cycles["guest_kernel"] == pytest.approx(guest, abs=len(exits) + 1)
    handled = sum(Fraction(us * HZ, 10**6) for _, us, reason in exits if reason != "HLT")
    slept = sum(Fraction(us * HZ, 10**6) for _, us, reason in exits if reason == "HLT")
    halts = sum(reason == "HLT" for _, _, reason in exits)
    asleep = slept - halts * CPU.costs["handling_hlt"].value
    assert result.cycles["idle"] >= asleep - halts
    assert result.raw["spent"]["handling"] >= handled - len(exits)
    assert result.cycles["idle"] + result.raw["spent"]["handling"] == pytest.approx(
        float(handled + slept), abs=len(exits) + 1
    )


@pytest.mark.parametrize("name", TRACES)
def test_every_dialect_is_replayed_once(name: str) -> None:
    recorded = vpmu.read_recording(RECORDINGS / f"{name}.txt")
    assert recorded.trace_seconds is not None
    assert recorded.trace_seconds == Fraction(max(recorded.recording.length_ns, 1), 10**9)
    result = none(recorded)
    assert sum(result.exits.values()) <= len(recorded.recording)
    assert sum(result.exits.values()) >= len(recorded.recording) - 1  # the last may fall on the end
    assert result.violations == ()
    results = vpmu.compare(vpmu.Scenario(workload=recorded))
    for other in results.values():
        testing.assert_conserved(other)
        assert sum(other.raw["exits"]) <= len(recorded.recording)


def test_a_trace_is_not_played_longer_than_it_is(tmp_path: Path) -> None:
    recorded = vpmu.read_recording(trace(tmp_path / "t.txt", [(100, 10, "CPUID")] * 9))
    length = Fraction(990, 10**6)
    others: tuple[Exact, ...] = (1, "0.0005", 0.00099001)
    for seconds in others:
        with pytest.raises(vpmu.ScenarioError, match="--repeat"):
            vpmu.Scenario(workload=recorded, seconds=seconds)
    same: tuple[Exact | None, ...] = (length, "0.00099", 0.00099, Decimal("0.00099"), None)
    for also in same:
        assert vpmu.Scenario(workload=recorded, seconds=also).seconds == length


@pytest.mark.parametrize("times", [1, 3, Fraction(7, 2)])
def test_repeat_loops_for_as_long_as_is_asked(times: int | Fraction, tmp_path: Path) -> None:
    recorded = vpmu.read_recording(trace(tmp_path / "t.txt", [(100, 10, "CPUID"), (200, 20, "MSR_READ")]), repeat=True)
    assert recorded.trace_seconds is None
    length = Fraction(330, 10**6)
    result = none(recorded, seconds=times * length)
    assert result.exits["CPUID"] == pytest.approx(float(times), abs=1)
    assert sum(result.exits.values()) == pytest.approx(2 * float(times), abs=1)
    assert none(recorded).scenario.seconds == 1


def test_exits_of_a_trace_come_with_the_guests_work_in_every_design(tmp_path: Path) -> None:
    recorded = vpmu.read_recording(trace(tmp_path / "t.txt", [(50, 5, "CPUID")] * 40))
    results = vpmu.compare(vpmu.Scenario(workload=recorded))
    gap = 50 * HZ // 10**6 - TRANSITION
    for name, result in results.items():
        if name != "bare-metal":
            work = result.cycles["guest_user"] + result.cycles["guest_kernel"]
            assert result.exits["CPUID"] == pytest.approx(work / gap, abs=1)
    assert results["emulated"].exits["CPUID"] < results["none"].exits["CPUID"] == 40


def test_a_vcpu_is_chosen_and_said() -> None:
    path = RECORDINGS / "ftrace_new.txt"
    default, zero, one = (vpmu.read_recording(path, vcpu=vcpu) for vcpu in (None, 0, 1))
    # By eye: vCPU 0 exits seven times, three times for its PMU; vCPU 1 exits once, CPUID.
    assert [len(recorded.recording) for recorded in (default, zero, one)] == [4, 4, 1]
    assert any("--vcpu N" in message for message in default.messages)
    assert not any("--vcpu N" in message for message in zero.messages)
    assert any("3 exits of the PMU" in message for message in default.messages)
    assert none(one).exits == {"CPUID": 1}
    assert "CPUID" not in none(zero).exits
    with pytest.raises(vpmu.RecordingError, match="0, 1"):
        vpmu.read_recording(path, vcpu=7)


def test_fastpath_msrs_and_userspace_exits_of_a_trace_take_their_path(tmp_path: Path) -> None:
    stamp = iter(range(1_000_000, 2_000_000, 100))

    def line(event: str) -> str:
        return f"kvm-1 [000] d... {next(stamp) / 1e6:.6f}: {event}"

    def exit_of(reason: str, *between: str) -> list[str]:
        entry = line("kvm_entry: vcpu 0, rip 0x1")
        leave = line(f"kvm_exit: vcpu 0 reason {reason} rip 0x1 info1 0x0 info2 0x0")
        return [entry, leave, *map(line, between)]

    lines = exit_of("MSR_WRITE", "kvm_msr: msr_write 6e0 = 0x5")
    lines += exit_of("MSR_WRITE", "kvm_msr: msr_write 10 = 0x5")
    lines += exit_of("IO_INSTRUCTION", "kvm_userspace_exit: reason KVM_EXIT_IO (2)")
    lines += [line("kvm_entry: vcpu 0, rip 0x1")]
    path = tmp_path / "t.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    planned, replayed = vpmu.read_recording(path).trace(CPU)
    kinds = [(planned[k].reason, ("fastpath", "kernel", "userspace")[planned[k].kind]) for k in replayed.kind]
    assert kinds == [("MSR_WRITE", "fastpath"), ("MSR_WRITE", "kernel"), ("IO_INSTRUCTION", "userspace")]


# -- tables -----------------------------------------------------------------------------------------------------------


def test_a_table_is_as_long_as_is_said() -> None:
    # By eye, table 2: 90 HLT of 9.07 us and 10 MSR_WRITE of 0.80 us.
    lengths: tuple[Exact, ...] = (10, "10", 10.0, Decimal(10), Fraction(10))
    for seconds in lengths:
        recorded = vpmu.read_recording(TABLE, recorded_seconds=seconds, table=2)
        assert recorded.recorded_seconds == 10
        assert recorded.workload().exits_per_second == 10
    source = recorded.workload()
    assert {item.reason: (item.count, item.handling_ns) for item in source.exits} == {
        "HLT": (90, 9070),
        "MSR_WRITE": (10, 800),
    }
    assert {item.reason: item.kind for item in source.exits}["MSR_WRITE"] == "fastpath"
    with pytest.raises(vpmu.ScenarioError, match="--recorded-seconds"):
        vpmu.read_recording(TABLE, table=2).workload()
    with pytest.raises(vpmu.ScenarioError, match="--recorded-seconds"):
        none(vpmu.read_recording(TABLE, table=2))


def test_row_none_of_a_table_has_its_rates() -> None:
    recorded = vpmu.read_recording(TABLE, recorded_seconds=Fraction(1, 100), table=2)
    result = none(recorded, seconds=Fraction(1, 2))
    assert result.exits_per_second == pytest.approx(10_000, rel=5 / 5000**0.5)
    assert result.exits["HLT"] / sum(result.exits.values()) == pytest.approx(0.9, abs=5 * (0.09 / 5000) ** 0.5)
    # HLT is sleep: the recorded 9.07 us, of which the cost model takes what is not idle.
    asleep = round(Decimal("9070") * HZ / 10**9) - CPU.costs["handling_hlt"].value
    assert result.cycles["idle"] == pytest.approx(result.exits["HLT"] * asleep, abs=result.exits["HLT"])


def test_vcpus_divide_a_table() -> None:
    one, two = (vpmu.read_recording(TABLE, recorded_seconds=10, table=2, vcpus=n).workload() for n in (1, 2))
    assert one.exits_per_second == 2 * two.exits_per_second
    assert [item.handling_ns for item in one.exits] == [item.handling_ns for item in two.exits]
    # Table 1, by eye: 500 HLT of 2000.01 us, 300 MSR_WRITE of 3 us, 190 interrupts of 2.43 us; RDPMC is the PMU's.
    busy = Fraction(500 * 2000_010 + 300 * 3000 + 190 * 2430, 10**9)
    for seconds in (Fraction(1, 10), Fraction(1, 3), Fraction(1, 2)):
        fits = -(-busy // seconds)
        with pytest.raises(vpmu.ScenarioError, match=f"--vcpus {fits}$"):
            vpmu.read_recording(TABLE, recorded_seconds=seconds, table=1).workload()
        vpmu.read_recording(TABLE, recorded_seconds=seconds, table=1, vcpus=int(fits)).workload()


def test_tables_are_chosen_and_said() -> None:
    first = vpmu.read_recording(TABLE, recorded_seconds=10)
    assert any("2 tables" in message and "--table N" in message for message in first.messages)
    assert any("10 exits of the PMU" in message for message in first.messages)
    assert first.workload().exits_per_second == Fraction(500 + 300 + 190, 10)
    assert not any("--table N" in message for message in vpmu.read_recording(TABLE, table=2).messages)
    for table in (0, 3, -1):
        with pytest.raises(vpmu.RecordingError, match="2 tables"):
            vpmu.read_recording(TABLE, table=table)


# -- rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rates", ["generic", *vpmu.workloads()])
def test_rates_are_borrowed(rates: str) -> None:
    recorded = vpmu.read_recording(TABLE, recorded_seconds=10, table=2, rates=rates)
    lender = vpmu.workload(rates)
    borrowed = recorded.workload()
    assert (borrowed.user, borrowed.kernel, borrowed.hypervisor) == (lender.user, lender.kernel, lender.hypervisor)
    assert borrowed.user_share == lender.user_share
    same = vpmu.read_recording(TABLE, recorded_seconds=10, table=2, rates=lender)
    assert same.workload() == borrowed
    replayed = vpmu.read_recording(RECORDINGS / "ftrace_new.txt", rates=rates)
    result = vpmu.simulate(vpmu.Scenario(design="dedicated", workload=replayed))
    cycles = result.cycles
    share = Fraction(cycles["guest_user"], cycles["guest_user"] + cycles["guest_kernel"])
    assert share == pytest.approx(lender.user_share / 2**32, abs=0.001)


def test_rates_change_counts_and_not_exits() -> None:
    counts = set()
    exits = set()
    for rates in ("sysbench-cpu", "hackbench"):
        recorded = vpmu.read_recording(TABLE, recorded_seconds=10, table=2, rates=rates)
        result = vpmu.simulate(vpmu.Scenario(design="dedicated", workload=recorded, seconds=0.2))
        counts.add(result.counters[0].ideal)
        exits.add(sum(result.raw["exits"]))
    assert len(counts) == 2
    assert len(exits) == 1


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"recorded_seconds": 0}, "recorded-seconds"),
        ({"recorded_seconds": -1}, "recorded-seconds"),
        ({"recorded_seconds": float("nan")}, "recorded-seconds"),
        ({"recorded_seconds": float("inf")}, "recorded-seconds"),
        ({"recorded_seconds": "soon"}, "recorded-seconds"),
        ({"recorded_seconds": True}, "recorded-seconds"),
        ({"recorded_seconds": 10**9}, "recorded-seconds"),
        ({"recorded_seconds": "1e999999999"}, "recorded-seconds"),
        ({"vcpus": 0}, "vcpus"),
        ({"vcpus": -1}, "vcpus"),
        ({"vcpus": 1.0}, "vcpus"),
        ({"vcpus": True}, "vcpus"),
        ({"vcpus": 1 << 70}, "vcpus"),
        ({"table": "1"}, "table"),
        ({"table": True}, "table"),
        ({"table": 1.0}, "table"),
        ({"vcpu": "0"}, "vcpu"),
        ({"vcpu": True}, "vcpu"),
        ({"repeat": "yes"}, "repeat"),
        ({"repeat": 1}, "repeat"),
        ({"rates": 5}, "rates"),
        ({"rates": None}, "rates"),
        ({"rates": "hackbnch"}, "did you mean hackbench"),
        ({"table": 1, "vcpu": 0}, "only one"),
    ],
)
@pytest.mark.parametrize("path", [TABLE, RECORDINGS / "ftrace_new.txt"])
def test_bad_options_raise_our_errors(path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(vpmu.VpmuError, match=said):
        vpmu.read_recording(path, **options)


def test_options_of_tables_and_of_traces_are_not_mixed() -> None:
    tables_only: tuple[dict[str, Any], ...] = ({"recorded_seconds": 1}, {"vcpus": 2})
    for options in tables_only:
        with pytest.raises(vpmu.ScenarioError, match="belong to tables"):
            vpmu.read_recording(RECORDINGS / "ftrace_new.txt", **options)
    with pytest.raises(vpmu.ScenarioError, match="belong to traces"):
        vpmu.read_recording(TABLE, repeat=True)
    table = vpmu.read_recording(TABLE, recorded_seconds=10, table=2)
    with pytest.raises(vpmu.ScenarioError, match="not replayed"):
        table.trace(CPU)
    with pytest.raises(vpmu.ScenarioError, match="has no rates"):
        vpmu.read_recording(RECORDINGS / "ftrace_new.txt").workload()


def test_too_many_kinds_of_exits_are_refused_and_not_mixed_up(tmp_path: Path) -> None:
    few = [
        f"kvm-1 [0] d... {1 + i / 1e6:.6f}: kvm_msr: msr_read {0x40000000 + i:x} = 0x0\n" for i in range((1 << 16) + 1)
    ]
    path = tmp_path / "t.txt"
    path.write_text("".join(few), encoding="utf-8")
    with pytest.raises(vpmu.VpmuError, match="too many"):
        vpmu.read_recording(path).trace(CPU)
    path.write_text("".join(few[:-1]), encoding="utf-8")
    planned, replayed = vpmu.read_recording(path).trace(CPU)
    assert len(planned) == len(set(replayed.kind.tolist())) == 1 << 16


def test_messages_go_to_standard_error_one_a_line() -> None:
    out, err = io.StringIO(), io.StringIO()
    path = RECORDINGS / "ftrace_two_vms.txt"
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(["compare", str(path), "--format", "csv"]) == 0
    messages = vpmu.read_recording(path).messages
    assert len(messages) > 1
    assert err.getvalue() == "".join(f"vpmu: {message}\n" for message in messages)
    assert "vpmu: " not in out.getvalue()


@pytest.mark.parametrize(("seconds", "repeat"), [("0.1", True), ("1", True), (None, False)])
def test_blocking_exits_of_a_trace_are_those_that_ran(seconds: str | None, repeat: bool, tmp_path: Path) -> None:
    lines = []
    for i in range(20):  # a HLT every 10 ms, 9 of which are idle
        at = 1 + i / 100
        lines += [f" qemu-1 [000] {at:.6f}: kvm_exit: vcpu 0 reason HLT rip 0x1 info 0 0\n"]
        lines += [f" qemu-1 [000] {at + 0.009:.6f}: kvm_entry: vcpu 0, rip 0x1\n"]
    path = tmp_path / "halts.txt"
    path.write_text("".join(lines), encoding="utf-8")
    recorded = vpmu.read_recording(path, repeat=repeat)
    result = vpmu.simulate(vpmu.Scenario(workload=recorded, seconds=seconds, design="none"))
    assert result.blocking_exits == sum(result.exits.values()) > 0
