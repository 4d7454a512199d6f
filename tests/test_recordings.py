"""Files that hold recordings, and files that do not."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import pytest
from recorded_files import SYNTHETIC, TASK, names, said, table_of, trace_of, write

from vpmu._errors import RecordingError
from vpmu.recordings import parse_recording


def test_table_and_trace_in_one_file(tmp_path: Path) -> None:
    table, trace = (SYNTHETIC / name for name in ("table_report.txt", "ftrace_old.txt"))
    both = write(tmp_path / "t", trace.read_text() + "\n" + table.read_text())
    trace_of(both)
    trace_of(both, vcpu=0)
    assert table_of(both, table=1).tables == 2
    with pytest.raises(RecordingError, match="give only one"):
        parse_recording(both, table=1, vcpu=0)
    with pytest.raises(RecordingError, match="no trace here"):
        parse_recording(table, vcpu=0)
    with pytest.raises(RecordingError, match="no table here"):
        parse_recording(trace, table=1)


@pytest.mark.parametrize("choice", [0, -1, 10**30])
def test_choices_out_of_range(choice: int) -> None:
    with pytest.raises(RecordingError, match="the file has 2 tables"):
        parse_recording(SYNTHETIC / "table_report.txt", table=choice)
    if choice:
        with pytest.raises(RecordingError, match="those with exits: 0"):
            parse_recording(SYNTHETIC / "ftrace_old.txt", vcpu=choice)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "no recording"),
        (b"hello\n", "no recording; known are"),
        (b"some text\nand a \0 byte\n", ":2: binary file"),
        (b"PERFILE2\x68\0\0", "perf.data"),
        (b"\x17\x08\x44tracing6\0", "trace-cmd report"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\xff\xfeV\0M\0", "UTF-16"),
        (bytes(range(256)) * 1000, "binary file"),
    ],
)
def test_what_is_no_recording(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=words):
        parse_recording(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no such file"):
        parse_recording(tmp_path / "missing")
    with pytest.raises(RecordingError, match="is a directory"):
        parse_recording(tmp_path)
    with pytest.raises(RecordingError, match="cannot be read"):
        parse_recording("a\0b")
    with pytest.raises(RecordingError, match="cannot be read"):
        parse_recording("x" * 100_000)
    with pytest.raises(RecordingError, match="cannot be read"):
        parse_recording(SYNTHETIC / "table_report.txt" / "below")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = write(tmp_path / "t", "x")
    path.chmod(0)
    with pytest.raises(RecordingError, match="cannot be read"):
        parse_recording(path)


def test_encodings_and_line_ends(tmp_path: Path) -> None:
    content = (SYNTHETIC / "table_report.txt").read_bytes()
    expected = table_of(SYNTHETIC / "table_report.txt").rows
    for changed in (
        b"\xef\xbb\xbf" + content,
        content.rstrip(b"\n"),
        content.replace(b"\n", b"\r\n"),
        content.replace(b"first run", b"\xff\xfe\xc3\x28"),
    ):
        path = tmp_path / "t"
        path.write_bytes(changed)
        assert table_of(path).rows == expected


def test_long_lines_are_passed_over(tmp_path: Path) -> None:
    content = (SYNTHETIC / "ftrace_old.txt").read_text()
    for length in (70_000, 300_000, 1_000_000):
        text = content + "x" * length + "\n" + f"{TASK}100.000200: kvm_msr: msr_read 1b = 0x0\n"
        trace = trace_of(write(tmp_path / "t", text))
        assert said(trace, "1 line longer than 64 KiB")
        assert names(trace)[-1] == "HLT"
    with pytest.raises(RecordingError, match="no recording"):
        parse_recording(write(tmp_path / "t", "x" * 1_000_000))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = (SYNTHETIC / "ftrace_old.txt").read_bytes()
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    trace = trace_of(pipe)
    writer.join()
    assert len(trace) == 4


def test_error_is_one_line_and_pickles(tmp_path: Path) -> None:
    with pytest.raises(RecordingError) as caught:
        parse_recording(SYNTHETIC / "table_msr.txt")
    assert "\n" not in str(caught.value)
    assert caught.value.line == 3
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
