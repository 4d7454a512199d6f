"""The compiled reader of common lines agrees with the one in Python, which decides what any line means."""

from __future__ import annotations

import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_files import SYNTHETIC

from vpmu._errors import RecordingError
from vpmu.recordings import TraceRecording
from vpmu.recordings._generate import generate
from vpmu.recordings._trace_reader import TraceReader

PREFIXES = [
    " qemu-kvm-1234  [003] d..1 ",
    " CPU 1/KVM-77    [000] d..1. ",
    "CPU 2/KVM 4240/4242 [003] ",
    " qemu-77 (   77) [001] .... ",
    "<idle>-0 [001] ",
    "",
    " no thread here ",
    " b\u00fccher-12 [000] d... ",
]
SYSTEMS = ["", "", "", "kvm:", "          1 kvm:", "sched:", "1", "  "]
EVENTS = [
    "kvm_exit: vcpu 0 reason HLT rip 0x1 info1 0x0000000000000000 intr_info 0x00000000 error_code 0x00000000",
    "kvm_exit: reason EXTERNAL_INTERRUPT rip 0x1 info 0 800000f5",
    "kvm_exit: vcpu 1, reason EXTERNAL_INTERRUPT rip 0x1 info1 0x0 info2 0x0 intr_info 0x800000f5 error_code 0x0",
    "kvm_exit: vcpu 1 reason EXTERNAL_INTERRUPT rip 0x1 info 00000000000000001 800000f5",
    "kvm_exit: vcpu 1 reason EXTERNAL_INTERRUPT rip 0x1 info 0 800000f50",
    "kvm_exit: reason MSR_WRITE rip 0x1 info 0 0",
    "kvm_exit: reason MSR_READ(x) rip 0x1 info 0 0",
    "kvm_exit: reason msr rip 0x1 info1 0x0000000000000001 info2 0x0",
    "kvm_exit: reason msr rip 0x1 info 1 0",
    "kvm_exit: reason msr rip 0x1 info 0x00000000000000001 0",
    "kvm_exit: reason EXIT_MSR rip 0x1 info1 0 info 0x1f",
    "kvm_exit: reason RDPMC rip 0x1",
    "kvm_exit: reason HLT",
    "kvm_exit: vcpu 123456 reason HLT rip 0x1",
    "kvm_exit: vcpu 0  reason HLT|x",
    "kvm_entry: vcpu 0",
    "kvm_entry: vcpu 1, rip 0x1",
    "kvm_entry: vcpu 2x",
    "kvm_entry:",
    "kvm_entry: vcpu",
    "kvm_msr: msr_write 6e0 = 0x5",
    "kvm_msr: msr_read 0xc1 = 0x0",
    "kvm_msr: msr_write C1 = 0x0",
    "kvm_msr: msr_read 123456789 = 0x0",
    "kvm_msr: msr_read 1b_ = 0",
    "kvm_userspace_exit: reason KVM_EXIT_IO (2)",
    "sched_switch: prev_comm=a prev_pid=1234 prev_prio=1 prev_state=R ==> next_comm=b next_pid=77 next_prio=1",
    "sched_switch: prev_comm=a prev_pid=77 prev_prio=1 prev_state=S ==> next_comm=b next_pid=1234 next_prio=1",
    "sched_switch: prev_comm=a prev_pid=5 prev_prio=1 prev_state=R ==> next_comm=b next_pid=6 next_prio=1",
    "sched_switch: prev_comm=prev_pid=77 prev_pid=5 prev_prio=1 prev_state=R ==> next_comm=b next_pid=6 next_prio=1",
    "sched_switch: prev_comm=a prev_pid=5 prev_prio=1 prev_state=R+ ==> next_comm=b next_pid=12345678901 next_prio=1",
    "sched_switch: a:1234 [120] R ==> b:77 [120]",
    "sched_switch: b:77 [120] S ==> prev_pid=5 next_pid=6 a:1234 [120]",
    "kvm_fpu: load",
    "kvm_exit no colon",
    "CPU:1 [LOST 5 EVENTS]",
]
PIECES = [
    " ",
    "  ",
    "\t",
    ":",
    "0",
    "1",
    "f",
    "_",
    ".",
    "x",
    ",",
    "\r",
    "\u00e9",
    "\x85",
    "\x1f",
    "kvm_",
    " " * 70,
    "9" * 11,
]


def line(chance: random.Random, now: int) -> str:
    stamp = chance.choice(["{}.{:06d}: ", "{}.{:06d}: ", "{}.{:06d}000: ", "{}.{:06d}:   "])
    text = chance.choice(PREFIXES[:4] if chance.random() < 0.9 else PREFIXES)
    text += stamp.format(*divmod(now, 10**6)) + chance.choice(SYSTEMS[:5] if chance.random() < 0.9 else SYSTEMS)
    text += chance.choice(EVENTS)
    while chance.random() < 0.15:
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice([*PIECES, ""]) + text[at + chance.randrange(3) :]
    return text


def trace(chance: random.Random, count: int) -> bytes:
    now, lines = 100_000_000, []
    for _ in range(count):
        now += chance.choice([0, 1, 7, 30, -2]) if chance.random() < 0.99 else chance.choice([2_000_000, -3_000_000])
        lines.append(line(chance, now))
    return "\n".join(lines).encode()


def outcome(reader: TraceReader, vcpu: int | None) -> Any:
    with reader:
        try:
            recording = reader.finish(vcpu)
        except RecordingError as error:
            return str(error)
    return recording


def assert_agree(content: bytes, vcpu: int | None = None) -> int:
    """Assert that both readers agree; how many events the compiled one has read itself."""
    compiled, plain = TraceReader("t"), TraceReader("t")
    compiled.feed_block(content, 0, 1)
    for number, raw in enumerate(content.split(b"\n"), 1):
        plain.feed(number, raw.decode("utf-8", "replace"))
    one, other = outcome(compiled, vcpu), outcome(plain, vcpu)
    assert type(one) is type(other)
    if isinstance(one, TraceRecording):
        for field in fields(TraceRecording):
            mine, theirs = getattr(one, field.name), getattr(other, field.name)
            assert np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else mine == theirs, field.name
    else:
        assert one == other
    return compiled._lines.events


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 1 << 32), vcpu=st.sampled_from([None, 0, 1]))
def test_any_lines(seed: int, vcpu: int | None) -> None:
    assert_agree(trace(random.Random(seed), 150), vcpu)


def test_spoiled_lines_are_few_enough_for_the_compiled_one_to_be_tried() -> None:
    assert assert_agree(trace(random.Random(1), 20_000)) > 2000


def test_common_lines_are_read_by_the_compiled_one() -> None:
    exits = 3000
    lines = b"".join(generate(exits, 1)).decode().splitlines()
    others = (
        " x-5 [001] d..1. {}: sched_switch: prev_comm=a prev_pid=5 prev_prio=1 prev_state=S ==> next_comm=b next_pid=6",
        " other-5 [001] d..1. {}: kvm_fpu: load",
    )
    stamps = [line.split(": ")[0].split()[-1] for line in lines]
    content = "\n".join(
        "\n".join((line, *(other.format(stamp) for other in others))) for line, stamp in zip(lines, stamps, strict=True)
    )
    compiled = TraceReader("t")
    asked: list[int] = []
    plain = compiled.feed
    compiled.feed = lambda number, text: asked.append(number) or plain(number, text)  # type: ignore[method-assign,func-returns-value]  # a spy
    compiled.feed_block(content.encode(), 0, 1)
    assert len(asked) < 50, asked[:100]  # each thread, reason and MSR for the first time
    assert len(outcome(compiled, None)) == exits


@pytest.mark.parametrize("path", sorted(SYNTHETIC.glob("*.txt")), ids=lambda path: path.stem)
def test_files(path: Path) -> None:
    content = path.read_bytes().rstrip(b"\n")
    assert_agree(content)
    assert_agree(b"\n".join([content] * 3))
