"""How fast recordings are read, in bytes per second."""

import pytest

from vpmu.recordings import parse_recording


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """A synthetic ftrace of 20,000 exits, about 3 MB."""
    path = tmp_path_factory.mktemp("trace") / "trace.txt"
    with path.open("w") as file:
        for i in range(20_000):
            at = 1000 + i * 2e-5
            file.write(
                f" CPU 0/KVM-4242  [003] d..1. {at:.6f}: kvm_exit: vcpu 0 reason IO_INSTRUCTION rip 0xffffffff81000000 "
                "info1 0x0000000003f80001 info2 0x0000000000000000 intr_info 0x00000000 error_code 0x00000000\n"
                f" CPU 0/KVM-4242  [003] d..1. {at + 5e-6:.6f}: kvm_entry: vcpu 0, rip 0xffffffff81000002\n"
            )
    return path


@pytest.mark.benchmark(group="recording")
def test_parse(benchmark, trace):
    recording = benchmark.pedantic(parse_recording, (trace,), rounds=3)
    assert len(recording.exit_ns) == 20_000
    if benchmark.stats is not None:
        benchmark.extra_info["MB_per_second"] = trace.stat().st_size / benchmark.stats.stats.min / 1e6


@pytest.mark.benchmark(group="recording")
def test_read_and_split_lines(benchmark, trace):
    """What Python needs only to look at every line."""

    def split():
        with trace.open() as file:
            return sum(len(line.split()) for line in file)

    assert benchmark(split) > 20_000
    if benchmark.stats is not None:
        benchmark.extra_info["MB_per_second"] = trace.stat().st_size / benchmark.stats.stats.min / 1e6
