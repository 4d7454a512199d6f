"""Tables of ``perf kvm stat``, real and synthetic."""

from __future__ import annotations

from pathlib import Path

import pytest
from recorded_files import SYNTHETIC, brief, real, said, table_of, trace_of, write

from vpmu._errors import RecordingError
from vpmu.recordings import ExitRow, parse_recording


def test_real_fio_has_two_tables() -> None:
    first = table_of(real("07"))
    assert brief(first.rows) == [
        ("EPT_MISCONFIG", 797440, 600),
        ("MSR_WRITE", 3672, 1520),
        ("EXTERNAL_INTERRUPT", 1638, 810),
    ]
    assert sum(row.count for row in first.rows) == 802_750
    assert (first.table, first.tables, first.caption) == (1, 2, "w/o this patch (duration:10s):")
    assert first.rows[0] == ExitRow("EPT_MISCONFIG", 797440, 600, 4, 390, 57920)
    assert first.total_samples is None
    assert first.missing_share == 0.0
    assert first.skipped_lines == first.dropped_pmu == 0
    assert len(first.messages) == 1
    assert "2 tables" in first.messages[0]
    assert "--table N" in first.messages[0]

    second = table_of(real("07"), table=2)
    assert sum(row.count for row in second.rows) == 4190
    assert [row.mean_ns for row in second.rows] == [1740, 1370, 1300]
    assert second.caption == "w/ this patch (duration:10s):"
    assert second.messages == ()

    with pytest.raises(RecordingError, match="no table 3: the file has 2 tables"):
        parse_recording(real("07"), table=3)


def test_real_sysbench_sums_to_its_total() -> None:
    table = table_of(real("05"))
    assert table.total_samples == 25898 == sum(row.count for row in table.rows)
    assert len(table.rows) == 9
    assert table.rows[3] == ExitRow("HLT", 2232, 30_567_940, 42, 560, 1_001_118_990)
    assert table.rows[-1] == ExitRow("EXCEPTION_NMI", 4, 470, 47, 420, 560)
    assert table.caption == "$ sudo perf kvm stat report --event=vmexit"
    assert table.messages == ()


def test_real_hackbench_has_four_cut_tables() -> None:
    expected = [
        (5417390, 1080, 0.0999),
        (6726109, 580, 0.0927),
        (2681713, 730, 0.0702),
        (2953447, 400, 0.0752),
    ]
    for index, (count, mean, missing) in enumerate(expected, 1):
        table = table_of(real("08"), table=index)
        assert brief(table.rows) == [("MSR_WRITE", count, mean)]
        assert table.tables == 4
        assert table.missing_share == pytest.approx(missing)
        assert said(table, "rows that are not in the file")
        assert table.caption == ("Before patch:" if index % 2 else "After patch:")


def test_real_indented_report_and_live() -> None:
    report, live = table_of(real("11")), table_of(real("11"), table=2)
    assert (report.total_samples, sum(row.count for row in report.rows), len(report.rows)) == (866, 866, 7)
    assert (live.total_samples, sum(row.count for row in live.rows), len(live.rows)) == (181, 181, 5)
    assert brief(live.rows)[1] == ("HLT", 34, 14_103_370)
    assert report.missing_share == live.missing_share == 0.0


def test_report_drops_rdpmc_and_keeps_hlt() -> None:
    table = table_of(SYNTHETIC / "table_report.txt")
    assert brief(table.rows) == [
        ("HLT", 500, 2_000_010),
        ("MSR_WRITE", 300, 3_000),
        ("EXTERNAL_INTERRUPT", 190, 2_430),
    ]
    assert table.dropped_pmu == 10
    assert said(table, "10 exits of the PMU")
    assert table.total_samples == 1000
    assert table.missing_share == 0.0  # a dropped row is not a missing one
    assert table.caption == "$ perf kvm stat report --event=vmexit"
    assert table_of(SYNTHETIC / "table_report.txt", table=2).caption == "After the change:"


def test_cut_table_counts_what_it_skips() -> None:
    table = table_of(SYNTHETIC / "table_cut.txt")
    # The third row is cut after its minimum, which must not become the mean; the fourth in its name.
    assert brief(table.rows) == [("EPT_MISCONFIG", 900_000, 600), ("MSR_WRITE", 300_000, 1_520)]
    assert table.skipped_lines == 2
    assert table.missing_share == pytest.approx(0.2)
    assert said(table, "2 of 4 lines")
    assert said(table, "line 6")
    assert said(table, "20.0 %")


def test_more_than_half_skipped_is_an_error(tmp_path: Path) -> None:
    text = (SYNTHETIC / "table_cut.txt").read_text().replace("0.60us\n", "0.6\n")
    with pytest.raises(RecordingError, match="3 of 4 lines") as caught:
        parse_recording(write(tmp_path / "cut", text))
    assert caught.value.line == 4
    assert str(caught.value).startswith(f"{tmp_path / 'cut'}:4: ")


def test_live_table_of_one_vcpu_with_warnings() -> None:
    table = table_of(SYNTHETIC / "table_live.txt")
    assert brief(table.rows) == [
        ("UNKNOWN", 60, 1_000),
        ("UNKNOWN", 30, 3_000),
        ("PREEMPTION_TIMER", 10, 45_000),
    ]
    assert table.skipped_lines == 0
    assert said(table, "vCPU 3 alone")


def test_quoted_and_folded_rows() -> None:
    table = table_of(SYNTHETIC / "table_mail.txt")
    assert brief(table.rows) == [
        ("EXTERNAL_INTERRUPT", 471_831, 2_340),
        ("MSR_WRITE", 238_932, 1_560),
        ("npf", 4_128, 560),
    ]
    assert table.skipped_lines == 0
    assert table.total_samples == 714_891 == sum(row.count for row in table.rows)


def test_newer_layout_has_its_units_in_the_header() -> None:
    table = table_of(SYNTHETIC / "table_event_name.txt")
    assert brief(table.rows) == [("hlt", 200, 2_000_000), ("msr", 100, 1_000)]
    assert table.missing_share is None  # whole percents do not add up to 100
    short = table_of(SYNTHETIC / "table_event_name.txt", table=2)
    assert brief(short.rows) == [("msr", 4, 1_001), ("npf", 2, 2_501)]


@pytest.mark.parametrize(
    ("cell", "ns"),
    [
        ("0.60us", 600),
        ("0.01us", 10),
        ("30567.94us", 30_567_940),
        ("999999999999.99us", 999_999_999_999_990),
        ("1.000000001s", 1_000_000_001),
        ("0.0005us", 1),
        ("0.0004us", 0),
        ("7ns", 7),
        ("1.5ms", 1_500_000),
    ],
)
def test_times_are_exact(tmp_path: Path, cell: str, ns: int) -> None:
    text = f"VM-EXIT Samples Samples% Time% Min Time Max Time Avg time\nHLT 1 100.00% 1.00% 0.1us 2us {cell}\n"
    assert table_of(write(tmp_path / "t", text)).rows[0].mean_ns == ns


@pytest.mark.parametrize(
    "row",
    [
        "HLT 9007199254740993 1.00% 1.00% 1us 1us 1us",
        "HLT 99999999999999999999999999 1.00% 1.00% 1us 1us 1us",
        "HLT 0 0.00% 1.00% 1us 1us 1us",
        "HLT -5 1.00% 1.00% 1us 1us 1us",
        "HLT 5 1.00% 1.00% 1us 1us -1us",
        "HLT 5 1.00% 1.00% 1us 1us 1000000001s",
        "HLT 5 1.00% 1.00% 1us 1us 9999999999999999999s",
        "HLT 5 1.00% 1.00% 1us 1us nanus",
        "HLT 5 101.00% 1.00% 1us 1us 1us",
        "HLT \u0665 1.00% 1.00% 1us 1us 1us",
        "HLT 5 1.00% 1.00% 1us 1us \u00b2us",
    ],
)
def test_senseless_numbers_are_skipped(tmp_path: Path, row: str) -> None:
    head = "VM-EXIT Samples Samples% Time% Min Time Max Time Avg time\n"
    good = "CPUID 5 50.00% 1.00% 1us 1us 1us\n"
    table = table_of(write(tmp_path / "t", head + good + row + "\n"))
    assert brief(table.rows) == [("CPUID", 5, 1000)]
    assert table.skipped_lines == 1
    with pytest.raises(RecordingError):
        parse_recording(write(tmp_path / "t", head + row + "\n"))


def test_header_alone_is_no_table(tmp_path: Path) -> None:
    head = "VM-EXIT Samples Samples% Time% Min Time Max Time Avg time\n"
    text = f"its header is\n{head}\nand so on\n\nreal one:\n{head}\nHLT 5 1.00% 1.00% 1us 1us 1us\n"
    table = table_of(write(tmp_path / "t", text))
    assert (table.tables, table.caption) == (1, "real one:")
    with pytest.raises(RecordingError, match=":1: the header of a table without rows"):
        parse_recording(write(tmp_path / "t", head + "Total Samples:0, Total events handled time:0.00us.\n"))


def test_table_of_nothing_but_rdpmc(tmp_path: Path) -> None:
    text = "VM-EXIT Samples Samples% Time% Min Time Max Time Avg time\nRDPMC 5 1.00% 1.00% 1us 1us 1us\n"
    with pytest.raises(RecordingError, match="PMU's own"):
        parse_recording(write(tmp_path / "t", text))


def test_header_quoted_in_prose_before_a_trace(tmp_path: Path) -> None:
    head = "VM-EXIT Samples Samples% Time% Min Time Max Time Avg time\n"
    trace = (SYNTHETIC / "ftrace_old.txt").read_text()
    assert len(trace_of(write(tmp_path / "t", f"not a table, with its\n{head}but\n{trace}"))) == 4


def test_a_row_twice_is_said(tmp_path: Path) -> None:
    text = (SYNTHETIC / "table_report.txt").read_text()
    row = next(line for line in text.splitlines() if "HLT" in line)
    table = table_of(write(tmp_path / "t", text.replace(row, row + "\n" + row, 1)))
    assert len(table.rows) == 4
    assert said(table, "there twice")


def test_caption_is_one_printable_line(tmp_path: Path) -> None:
    head = "VM-EXIT Samples Samples% Time% Min Time Max Time Avg time\n"
    text = "\x07evil\u2028\u202e" + "x" * 500 + f"\n{head}HLT 5 1.00% 1.00% 1us 1us 1us\n"
    caption = table_of(write(tmp_path / "t", text)).caption
    assert caption.startswith("?evil??x")
    assert caption.isprintable()
    assert len(caption) <= 120
