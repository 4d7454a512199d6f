"""Compare two pytest-benchmark JSON files by ratios to each group's limit, which noise of the machine moves little.

python benchmarks/compare_runs.py BEFORE.json AFTER.json     exit status 1 if a ratio has grown by more than 30 %
python benchmarks/compare_runs.py AFTER.json                 the table of benchmarks/RESULTS.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

MOST = 1.3


def ratios(path: str) -> dict[tuple[str, str], tuple[float, float | None]]:
    """Nanoseconds per operation and ratio to the group's limit, by group and name."""
    found: dict[tuple[str, str], float] = {}
    limits: dict[str, float] = {}
    for benchmark in json.loads(Path(path).read_text())["benchmarks"]:
        info = benchmark["extra_info"]
        if "ns_per_operation" not in info:
            continue
        key = benchmark["group"], benchmark["name"]
        found[key] = info["ns_per_operation"]
        if info.get("limit"):
            limits[key[0]] = info["ns_per_operation"]
    return {key: (ns, ns / limits[key[0]] if key[0] in limits else None) for key, ns in found.items()}


def table(path: str) -> str:
    """Markdown table of one run."""
    machine = json.loads(Path(path).read_text())["machine_info"]
    cpu = machine.get("cpu", {}).get("brand_raw", machine["machine"])
    lines = [f"{cpu}, Python {machine['python_version']}; minima.", ""]
    lines += ["| group | benchmark | ns per operation | x limit |", "|---|---|---:|---:|"]
    for (group, name), (ns, ratio) in sorted(ratios(path).items()):
        lines.append(f"| {group} | {name} | {ns:,.3g} | {'' if ratio is None else f'{ratio:.2f}'} |")
    return "\n".join(lines)


def main(paths: list[str]) -> int:
    """Print the comparison and say whether something has become too slow."""
    if len(paths) == 1:
        print(table(paths[0]))
        return 0
    if len(paths) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    before, after = ratios(paths[0]), ratios(paths[1])
    slower = 0
    for key in sorted(before.keys() & after.keys()):
        old, new = before[key][1], after[key][1]
        if old is None or new is None:
            continue
        worse = new > MOST * old
        slower += worse
        print(f"{'SLOWER ' if worse else ''}{key[0]}: {key[1]}: {old:.2f} -> {new:.2f} x limit")
    for key in sorted(before.keys() ^ after.keys()):
        print(f"only in {'the first' if key in before else 'the second'}: {key[0]}: {key[1]}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
