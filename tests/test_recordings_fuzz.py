"""Recordings are untrusted: mutated ones raise nothing but RecordingError, in linear time and memory."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vpmu._errors import RecordingError
from vpmu.recordings import TableRecording, TraceRecording, parse_recording

SYNTHETIC = Path(__file__).resolve().parent / "recordings"
REAL = Path(__file__).resolve().parents[1].parent / "shared" / "recordings"

SEEDS = [path.read_bytes() for path in sorted(SYNTHETIC.glob("*.txt"))]
REAL_SEEDS = [path.read_bytes() for path in sorted(REAL.glob("*.txt"))]  # an extra, where they are

NUMBERS = [
    b"0",
    b"-1",
    b"4294967296",
    b"9223372036854775808",
    b"9" * 40,
    b"1e400",
    b"nan",
    b"0x",
    b"",
    b"\xd9\xa5",
]
PIECES = [
    b"VM-EXIT Samples Samples% Time% Min Time Max Time Avg time\n",
    b"Total Samples:18446744073709551616, Total",
    b" q-1 [000] d... 1.000000: kvm_exit: reason ",
    b"kvm:kvm_entry: vcpu 99999",
    b"\x1b[2J",
    b"> ",
    b"\xff",
    b"\0",
    b"\r",
    b"\n\n",
    b"CPU:1 [LOST 5 EVENTS]\n",
    b"99999999999.999999: ",
    b" " * 300,
]

Mutation = Callable[[random.Random, bytes], bytes]


def _lines(change: Callable[[random.Random, list[bytes]], None]) -> Mutation:
    def mutate(chance: random.Random, content: bytes) -> bytes:
        lines = content.split(b"\n")
        change(chance, lines)
        return b"\n".join(lines)

    return mutate


def _delete_line(chance: random.Random, lines: list[bytes]) -> None:
    del lines[chance.randrange(len(lines))]
    lines.append(b"")


def _repeat_line(chance: random.Random, lines: list[bytes]) -> None:
    lines.insert(chance.randrange(len(lines)), chance.choice(lines))


def _move_line(chance: random.Random, lines: list[bytes]) -> None:
    lines.insert(chance.randrange(len(lines)), lines.pop(chance.randrange(len(lines))))


def _cut_line(chance: random.Random, lines: list[bytes]) -> None:
    index = chance.randrange(len(lines))
    lines[index] = lines[index][: chance.randrange(len(lines[index]) + 1)]


def _cut_all_lines(chance: random.Random, lines: list[bytes]) -> None:
    width = chance.randrange(20, 120)
    lines[:] = [line[:width] for line in lines]


def _shuffle(chance: random.Random, lines: list[bytes]) -> None:
    chance.shuffle(lines)


def _change_number(chance: random.Random, lines: list[bytes]) -> None:
    index = chance.randrange(len(lines))
    words = lines[index].split(b" ")
    numbers = [place for place, word in enumerate(words) if any(48 <= byte < 58 for byte in word)]
    if numbers:
        place = chance.choice(numbers)
        old = words[place]
        digits = [at for at, byte in enumerate(old) if 48 <= byte < 58]
        at = chance.choice(digits)
        words[place] = old[:at] + chance.choice(NUMBERS) + old[at + chance.randrange(2) :]
        lines[index] = b" ".join(words)


def _truncate(chance: random.Random, content: bytes) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _flip_byte(chance: random.Random, content: bytes) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[:at] + bytes([chance.randrange(1, 256)]) + content[at + 1 :]


def _delete_bytes(chance: random.Random, content: bytes) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[:at] + content[at + chance.randrange(1, 20) :]


def _insert_piece(chance: random.Random, content: bytes) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[:at] + chance.choice(PIECES) + content[at:]


def _insert_noise(chance: random.Random, content: bytes) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[:at] + chance.randbytes(chance.randrange(40)).replace(b"\0", b" ") + content[at:]


def _splice(chance: random.Random, content: bytes) -> bytes:
    other = chance.choice(SEEDS)
    return content[: chance.randrange(len(content) + 1)] + other[chance.randrange(len(other)) :]


MUTATIONS: list[Mutation] = [
    *map(_lines, (_delete_line, _repeat_line, _move_line, _cut_line, _cut_all_lines, _shuffle, _change_number)),
    _lines(_change_number),
    _truncate,
    _flip_byte,
    _delete_bytes,
    _insert_piece,
    _insert_noise,
    _splice,
]


def check(recording: TableRecording | TraceRecording) -> None:
    """Assert all that holds for every recording."""
    assert all(message and message.isprintable() for message in recording.messages)
    assert recording.skipped_lines >= 0
    assert recording.dropped_pmu >= 0
    if isinstance(recording, TableRecording):
        assert 1 <= recording.table <= recording.tables
        assert recording.rows
        for row in recording.rows:
            assert 1 <= row.count <= 2**53
            for ns in (row.mean_ns, row.min_ns, row.max_ns):
                assert ns is None or 0 <= ns <= 10**18
            assert row.reason.isidentifier() or row.reason[0].isdigit()
            assert row.line >= 1
        assert recording.missing_share is None or 0 <= recording.missing_share <= 1
        assert recording.caption.isprintable()
        assert recording.total_samples is None or recording.total_samples >= 0
        return
    count = len(recording)
    assert count >= 1
    columns = ("exit_ns", "entry_ns", "reason", "msr", "msr_write", "userspace", "handled", "kind")
    assert all(getattr(recording, name).shape == (count,) for name in columns)
    exits, entries = recording.exit_ns, recording.entry_ns
    assert exits[0] >= 0
    assert np.all(exits <= entries)
    assert np.all(entries[:-1] <= exits[1:])
    assert entries[-1] <= recording.length_ns
    assert np.all(entries[~recording.handled] == exits[~recording.handled])
    assert set(recording.reason.tolist()) == set(range(len(recording.reasons)))
    assert recording.kinds is not None
    assert list(recording.kinds) == sorted(set(recording.kinds))
    of_exits = zip(recording.reason.tolist(), recording.msr.tolist(), recording.userspace.tolist(), strict=True)
    assert [recording.kinds[kind] for kind in recording.kind] == list(of_exits)
    assert recording.msr.min() >= -1
    assert recording.msr.max() < 2**32
    assert recording.vcpu in recording.vcpus
    assert list(recording.vcpus) == sorted(set(recording.vcpus))
    assert recording.segments >= 1
    assert recording.dropped_ns >= 0
    # Handling of several exits never overlaps, so waiting in it fits in too.
    assert 0 <= recording.preempted_ns <= int((entries - exits).sum())


def parse_or_refuse(path: Path, content: bytes, **choice: int) -> None:
    path.write_bytes(content)
    try:
        recording = parse_recording(path, **choice)
    except RecordingError as error:
        refusal = error
    else:
        check(recording)
        return
    assert refusal.path == str(path)
    assert refusal.line is None or 1 <= refusal.line <= content.count(b"\n") + 1
    assert "\n" not in refusal.message


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "recording"


CHOICES = st.sampled_from([{}, {"table": 1}, {"table": 2}, {"vcpu": 0}, {"vcpu": 1}])
FUZZ = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("content", SEEDS + REAL_SEEDS)
def test_seeds(scratch: Path, content: bytes) -> None:
    for choice in ({}, {"table": 2}, {"vcpu": 1}):
        parse_or_refuse(scratch, content, **choice)


@FUZZ
@given(
    seed=st.integers(0, len(SEEDS) - 1),
    mutations=st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=8),
    chance=st.randoms(use_true_random=False),
    choice=CHOICES,
)
def test_mutations_of_synthetic_files(
    scratch: Path, seed: int, mutations: list[Mutation], chance: random.Random, choice: dict[str, int]
) -> None:
    content = SEEDS[seed]
    for mutate in mutations:
        content = mutate(chance, content)
    parse_or_refuse(scratch, content, **choice)


@pytest.mark.skipif(not REAL_SEEDS, reason="the real recordings are not here")
@FUZZ
@given(
    seed=st.integers(0, max(len(REAL_SEEDS) - 1, 0)),
    mutations=st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=8),
    chance=st.randoms(use_true_random=False),
    choice=CHOICES,
)
def test_mutations_of_real_files(
    scratch: Path, seed: int, mutations: list[Mutation], chance: random.Random, choice: dict[str, int]
) -> None:
    content = REAL_SEEDS[seed]
    for mutate in mutations:
        content = mutate(chance, content)
    parse_or_refuse(scratch, content, **choice)


@FUZZ
@given(content=st.binary(max_size=400), choice=CHOICES)
def test_random_bytes(scratch: Path, content: bytes, choice: dict[str, int]) -> None:
    parse_or_refuse(scratch, content, **choice)


@FUZZ
@given(
    lines=st.lists(
        st.builds(
            " {}-{} [00{}] d... {}.{:06d}: {}".format,
            st.sampled_from(["q", "CPU 0/KVM", "CPU 1/KVM", "<...>"]),
            st.integers(1, 3),
            st.integers(0, 3),
            st.integers(0, 3),
            st.integers(0, 999_999),
            st.sampled_from(
                [
                    "kvm_exit: reason HLT rip 0x1 info 0 0",
                    "kvm_exit: vcpu 0 reason MSR_WRITE rip 0x1",
                    "kvm_exit: vcpu 1 reason EXTERNAL_INTERRUPT rip 0x1 intr_info 0x800000f5",
                    "kvm_exit: reason RDPMC rip 0x1",
                    "kvm_entry: vcpu 0",
                    "kvm_entry: vcpu 1, rip 0x1",
                    "kvm_msr: msr_write 6e0 = 0x0",
                    "kvm_msr: msr_read c1 = 0x0",
                    "kvm_userspace_exit: reason KVM_EXIT_IO (2)",
                    "sched_switch: prev_pid=1 prev_state=R ==> next_comm=b next_pid=2 next_prio=1",
                    "sched_switch: prev_pid=2 prev_state=R ==> next_comm=a next_pid=1 next_prio=1",
                    "kvm_fpu: load",
                ]
            ),
        ),
        max_size=60,
    ),
    ordered=st.booleans(),
    choice=CHOICES,
)
def test_any_order_of_events(scratch: Path, lines: list[str], ordered: bool, choice: dict[str, int]) -> None:
    if ordered:
        lines = sorted(lines, key=lambda line: line.split("... ")[1].split(":")[0])
    parse_or_refuse(scratch, "\n".join(lines).encode(), **choice)


# Time and memory --------------------------------------------------------------------------------------


def trace_text(count: int) -> bytes:
    chance = random.Random(count)
    lines = []
    for n in range(count // 2):
        vcpu = n % 4
        clock = f"{100 + n // 10_000}.{n % 10_000 * 90:06d}"
        prefix = f" qemu-system-x86-{8390 + vcpu}    [{vcpu:03d}] d....  {clock}: "
        reason = chance.choice(["EXTERNAL_INTERRUPT", "MSR_WRITE", "HLT"])
        lines.append(f"{prefix}kvm_exit: vcpu {vcpu} reason {reason} rip 0x1 info1 0x0 info2 0x0\n")
        lines.append(f"{prefix}kvm_entry: vcpu {vcpu}, rip 0x1\n")
    return "".join(lines).encode()


def tables_text(count: int) -> bytes:
    rows = "".join(f"  R{n} 1000 25.00% 25.00% 0.60us 60.00us 6.00us ( +-  1.00% )\n" for n in range(4))
    header = "\n  VM-EXIT    Samples  Samples%     Time%    Min Time    Max Time         Avg time\n\n"
    return (f"caption\n{header}{rows}\n" * (count // 10)).encode()


def jumps_text(count: int) -> bytes:
    lines = (f" q-1 [000] d... {n * 2 % 9_999_999}.000000: kvm_exit: reason R{n} rip 0x1\n" for n in range(count))
    return "".join(lines).encode()


def prose_text(count: int) -> bytes:
    return b"the quick brown kvm_exit jumps over 1.000000: lazy dogs\n" * count


def folded_header_text(count: int) -> bytes:
    return b"VM-EXIT Samples\n" + b"Min Time\n" * count


def unfinished_rows_text(count: int) -> bytes:
    return b"VM-EXIT Samples\n" + b"HLT 10 1.00%\n" * count


TEXTS = [trace_text, tables_text, jumps_text, prose_text, folded_header_text, unfinished_rows_text]
SMALL, LARGE = 20_000, 80_000


def best_time(path: Path) -> float:
    times = []
    for _ in range(3):
        start = time.process_time()
        with suppress(RecordingError):
            parse_recording(path)
        times.append(time.process_time() - start)
    return min(times)


def peak_memory(path: Path) -> int:
    tracemalloc.start()
    try:
        with suppress(RecordingError):
            parse_recording(path)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("text", TEXTS)
def test_time_is_linear(scratch: Path, text: Callable[[int], bytes]) -> None:
    times = []
    for count in (SMALL, LARGE):
        scratch.write_bytes(text(count))
        times.append(best_time(scratch))
    assert times[1] < 8 * times[0] + 0.05, times  # 4 when linear, 16 when quadratic


@pytest.mark.parametrize("text", TEXTS)
def test_memory_is_bounded(scratch: Path, text: Callable[[int], bytes]) -> None:
    peaks = []
    for count in (SMALL, LARGE):
        scratch.write_bytes(text(count))
        peaks.append(peak_memory(scratch))
    # Up to 65,536 exits stay in memory (27 bytes for each, then 31); the rest are blocks (test_recordings_scale.py).
    assert peaks[1] - peaks[0] < 64 * (LARGE - SMALL), peaks
    assert peaks[0] < 4 * 2**20, peaks


@pytest.mark.parametrize(
    "piece",
    [
        " ",
        "1",
        "1.",
        "1.000000: ",
        "1.000000: kvm:",
        "a-1 ",
        "> ",
        "kvm_exit: ",
        "prev_pid=1 ",
        ":1 [1] R ==> ",
    ],
)
@pytest.mark.parametrize(
    "lead", ["", " q-1 [000] d... 1.000000: kvm_exit: ", " q-1 [000] d... 1.000000: sched_switch: "]
)
def test_long_hostile_lines_take_linear_time(scratch: Path, lead: str, piece: str) -> None:
    times = []
    for length in (8_000, 60_000):
        line = lead + piece * (length // len(piece)) + "\n"
        scratch.write_text(line * (480_000 // length))
        times.append(best_time(scratch))
    # The same number of bytes in longer lines: nearly the same time, 7.5 times as much when quadratic.
    assert times[1] < 4 * times[0] + 0.05, times
