"""Compare two pytest-benchmark JSON files by ratios to each benchmark's limit, which noise of the machine moves little.

python benchmarks/compare_runs.py BEFORE.json AFTER.json     exit status 1 if a ratio has grown by over 30 % or is gone
python benchmarks/compare_runs.py AFTER.json                 the table of benchmarks/RESULTS.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MOST = 1.3
Key = tuple[str, str]


def read(path: str) -> dict[str, Any]:
    """A file of pytest-benchmark; SystemExit with status 2 for any other."""
    try:
        found = json.loads(Path(path).read_text())
        if not found["benchmarks"]:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{path}: no benchmarks of pytest-benchmark in it ({type(error).__name__})", file=sys.stderr)
        raise SystemExit(2) from None
    return dict(found)


def figures(path: str) -> dict[Key, dict[str, Any]]:
    """What each benchmark noted, by group and name."""
    found = {}
    for benchmark in read(path)["benchmarks"]:
        if "unit" in benchmark["extra_info"]:
            found[benchmark["group"] or "", benchmark["name"]] = benchmark["extra_info"]
    return found


def figure(info: dict[str, Any]) -> str:
    """A time per operation, or another figure, with its unit."""
    unit = info["unit"]
    if f"ns_per_{unit}" in info:
        rate = f" ({info['reactions_per_second'] / 1e6:,.3g} M/s)" if "reactions_per_second" in info else ""
        return f"{info[f'ns_per_{unit}']:,.3g} ns per {unit}{rate}"
    return f"{info[unit]:,.3g} {unit}"


def table(path: str) -> str:
    """Markdown table of one run."""
    machine = read(path)["machine_info"]
    cpu = machine.get("cpu", {}).get("brand_raw", machine["machine"])
    lines = [f"{cpu}, Python {machine['python_version']}; minima.", ""]
    lines += ["| group | benchmark | figure | x limit |", "|---|---|---:|---:|"]
    for (group, name), info in sorted(figures(path).items()):
        ratio = f"{info['x_limit']:.3g}" if "x_limit" in info else ""
        lines.append(f"| {group} | {name} | {figure(info)} | {ratio} |")
    return "\n".join(lines)


def main(paths: list[str]) -> int:
    """Print a run's figures, or compare two; 1 if a figure has grown beyond MOST or is gone, 2 for other arguments."""
    if len(paths) == 1:
        print(table(paths[0]))
        return 0
    if len(paths) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    before, after = figures(paths[0]), figures(paths[1])
    slower = missing = 0
    for key in sorted(before.keys() & after.keys()):
        if "x_limit" not in before[key] or "x_limit" not in after[key]:
            print(f"not compared, for it has no limit: {key[0]}: {key[1]}")
            continue
        old, new = before[key]["x_limit"], after[key]["x_limit"]
        worse = not new <= MOST * old  # also if it is no number
        slower += worse
        print(f"{'SLOWER ' if worse else ''}{key[0]}: {key[1]}: {old:.3g} -> {new:.3g} x limit")
    for key in sorted(before.keys() ^ after.keys()):
        missing += key in before
        print(f"only in {'the first' if key in before else 'the second'}: {key[0]}: {key[1]}")
    return 1 if slower or missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
