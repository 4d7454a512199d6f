"""Recordings for tests: the synthetic ones, the real ones where they are, and what to compare of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpmu.recordings import ExitRow, TableRecording, TraceRecording, parse_recording

SYNTHETIC = Path(__file__).resolve().parent / "recordings"
REAL = Path(__file__).resolve().parents[1].parent / "shared" / "recordings"
TASK = " qemu-1 [000] d..1. "


def real(prefix: str) -> Path:
    """Find a real recording by its number, or skip the test."""
    found = sorted(REAL.glob(f"{prefix}_*.txt"))
    if not found:
        pytest.skip("the real recordings are not here")
    return found[0]


def table_of(path: Path, **choice: int) -> TableRecording:
    recording = parse_recording(path, **choice)
    assert isinstance(recording, TableRecording)
    return recording


def trace_of(path: Path, **choice: int) -> TraceRecording:
    recording = parse_recording(path, **choice)
    assert isinstance(recording, TraceRecording)
    return recording


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def brief(rows: tuple[ExitRow, ...]) -> list[tuple[str, int, int]]:
    return [(row.reason, row.count, row.mean_ns) for row in rows]


def names(trace: TraceRecording) -> list[str]:
    return [trace.reasons[index] for index in trace.reason]


def said(recording: TableRecording | TraceRecording, words: str) -> bool:
    return any(words in message for message in recording.messages)
