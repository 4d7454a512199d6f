"""How fast recordings are read, beside only looking at every line."""

import pytest

from vpmu.recordings import parse_recording

EXITS = 10_000


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """A synthetic ftrace, about 150 bytes an exit."""
    path = tmp_path_factory.mktemp("trace") / "trace.txt"
    with path.open("w") as file:
        for i in range(EXITS):
            at = 1000 + i * 2e-5
            file.write(
                f" CPU 0/KVM-4242  [003] d..1. {at:.6f}: kvm_exit: vcpu 0 reason IO_INSTRUCTION rip 0xffffffff81000000 "
                "info1 0x0000000003f80001 info2 0x0000000000000000 intr_info 0x00000000 error_code 0x00000000\n"
                f" CPU 0/KVM-4242  [003] d..1. {at + 5e-6:.6f}: kvm_entry: vcpu 0, rip 0xffffffff81000002\n"
            )
    return path


@pytest.mark.benchmark(group="recording")
def test_parse(benchmark, measure, limits, trace):
    """The limit: what Python needs only to look at every line."""

    def split():
        with trace.open() as file:
            return sum(len(line.split()) for line in file)

    recording = measure(parse_recording, trace, operations=EXITS, limit=limits["limit"](split, EXITS))
    assert len(recording.exit_ns) == EXITS
    if benchmark.stats is not None:
        benchmark.extra_info["MB_per_second"] = trace.stat().st_size / benchmark.stats.stats.min / 1e6
