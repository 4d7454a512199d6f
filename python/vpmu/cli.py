"""The command line."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from . import report
from ._costs import COST_NAMES
from ._cpu import cpu
from ._cpu_listing import CPUS_NOTE, cpu_dicts
from ._data import read_toml
from ._designs import GuestPmu
from ._errors import ScenarioError, UnknownName, VpmuError
from ._listing import EVENTS_NOTE, LISTS, list_rows
from ._perf import parse_guest_perf, parse_host_perf
from ._progress import Report, progress_bar
from ._recorded import Recorded, positive_seconds, read_recording
from ._registry import design, designs, with_event_filter
from ._result import Result
from ._scenario import Scenario
from ._sequence_listing import SEQUENCES_NOTE
from ._simulate import ENGINES, compare, simulate
from ._vcpu import Vcpu
from ._version import __version__
from ._workload import Workload
from ._workload_file import rates_names, workload, workloads
from .recordings import TraceRecording

DEFAULT_GUEST_PERF = "stat:instructions,cycles"


class _Parser(argparse.ArgumentParser):
    """One line on bad input, exit status 2."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        sys.stdout.flush()
        super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vpmu", description="Simulate an x86 PMU while a hypervisor shares it between guests and host."
    )
    parser.add_argument("--version", action="version", version=f"vpmu {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    formatter = argparse.RawDescriptionHelpFormatter
    c = commands.add_parser(
        "compare",
        help="what each vPMU design costs and counts on one workload",
        formatter_class=formatter,
        description="Run one workload in every vPMU design with the same seed, and show cost and counts side by side.",
        epilog="examples:\n"
        "  vpmu compare sysbench-cpu\n"
        "  vpmu compare kvm-stat.txt --recorded-seconds 10 --cpu emeraldrapids --format json\n"
        "  vpmu compare fio-4k-read --design mediated --design mediated,scope=every-exit \\\n"
        "      --guest-perf record:instructions,cycles:period=1000000 --host-perf cycles:pinned:exclude_guest",
    )
    c.add_argument("workload", metavar="WORKLOAD|RECORDING", help="a built-in workload (vpmu list workloads) or a file")
    c.add_argument("--cpu", default="sapphirerapids", metavar="N", help="CPU preset (vpmu list cpus); sapphirerapids")
    c.add_argument(
        "--design", action="append", metavar="N[,key=value…]", help="a design (vpmu list designs); may be repeated; all"
    )
    c.add_argument(
        "--guest-perf",
        action="append",
        metavar="SPEC",
        help="stat:EVENT,…[:interval=MS], record:EVENT,…:period=N (or :freq=HZ) or watchdog; {EVENT,…} is a group; "
        f":task=N counts one task with N switches a second; may be repeated; {DEFAULT_GUEST_PERF}",
    )
    c.add_argument("--guest-hz", type=int, default=250, metavar="N", help="CONFIG_HZ of the guest's Linux; 250")
    c.add_argument("--guest-kernel", default="6.14", metavar="V", help="version of the guest's Linux; 6.14")
    c.add_argument(
        "--host-perf",
        action="append",
        metavar="SPEC",
        help="EVENT[:pinned][:task][:exclude_guest|:exclude_host][:freq=HZ|:period=N] or watchdog; may be repeated; "
        "none",
    )
    c.add_argument("--seconds", metavar="S", help="wall time of the simulated CPU; 1")
    c.add_argument("--seed", type=int, default=1, metavar="N", help="same seed, same integers; 1")
    c.add_argument("--engine", default="lazy", metavar="E", help=f"{', '.join(ENGINES)}: same integers; lazy")
    c.add_argument("--vm-first", action="store_true", help="the VM exists before the host's events")
    c.add_argument("--host-hz", type=int, default=250, metavar="HZ", help="CONFIG_HZ of the host: its tick; 250")
    c.add_argument("--events-file", metavar="F", help="a JSON file of Intel's perfmon: counters that events may use")
    c.add_argument("--no-mediated-pmu", action="store_true", help="KVM's module parameter enable_mediated_pmu is off")
    c.add_argument("--what-if", action="store_true", help="simulate designs even where they cannot be had")
    r = c.add_argument_group("recordings")
    r.add_argument("--recorded-seconds", metavar="S", help="how long a table was recorded (a table does not say)")
    r.add_argument("--table", type=int, metavar="N", help="which table of the file, from 1")
    r.add_argument("--vcpus", type=int, default=1, metavar="N", help="vCPUs that a table adds up; 1")
    r.add_argument("--vcpu", type=int, metavar="N", help="which vCPU of a trace; the one with most exits")
    r.add_argument("--rates", metavar="WORKLOAD", help="whose event rates to use; generic")
    r.add_argument("--repeat", action="store_true", help="loop a trace for --seconds")
    _format(c)

    run = commands.add_parser(
        "run",
        help="one scenario in full",
        formatter_class=formatter,
        description="Run one scenario and show counters, ledger, costs, exits, accesses and PMIs.",
        epilog="example: vpmu run scenario.toml\n\n"
        "SCENARIO.toml has the arguments of vpmu.Scenario as keys:\n"
        '  cpu = "sapphirerapids"\n  design = "mediated,scope=every-exit"\n  workload = "sysbench-cpu"\n'
        '  guest_perf = ["record:cycles:period=1000000"]\n  host_perf = []\n  seconds = 1.0\n  seed = 1\n'
        "  [costs]\n  wrmsr = 140\n"
        "A recording is [recording] with path, recorded_seconds, table, vcpus, vcpu, rates and repeat, in place of\n"
        "workload. [event_filter] has the keys of vpmu.EventFilter (action, events, fixed_counter_bitmap, masked) and\n"
        "tables [[event_filter.changes]] of the same with at, in seconds; or name a file of these keys, as does\n"
        '  design = "mediated,event_filter=FILE.toml"\n\n'
        "Several vCPUs that take turns on the logical CPU are tables [[vcpu]]; what one leaves out is the scenario's:\n"
        '  slice_ms = 3\n  [[vcpu]]\n  workload = "hackbench"\n  [[vcpu]]\n  guest_perf = ["stat:cycles"]\n'
        "Keys: workload (or recording), guest_perf, design (the same one, with options of its own), event_filter,\n"
        "guest_pmu, guest_hz, guest_kernel. vcpus = N, or --vcpus N, makes N equal ones.",
    )
    run.add_argument("scenario", metavar="SCENARIO.toml")
    run.add_argument(
        "--vcpus", type=int, metavar="N", help="N equal vCPUs on the logical CPU, for a file without [[vcpu]]"
    )
    run.add_argument("--engine", default="lazy", metavar="E", help=f"{', '.join(ENGINES)}: same integers; lazy")
    _format(run, csv=False)

    listing = commands.add_parser(
        "list",
        help="what there is: CPUs, designs, workloads, sequences, events",
        formatter_class=formatter,
        description="List what can be named on the command line.",
        epilog="examples:\n"
        "  vpmu list workloads\n"
        "  vpmu list events --cpu skylake\n"
        "  vpmu list sequences --cpu sapphirerapids    (accesses and cycles of one switch, by class)\n"
        "  vpmu list events --events-file sapphirerapids_core.json    (from github.com/intel/perfmon)",
    )
    listing.add_argument("what", choices=LISTS)
    listing.add_argument(
        "--cpu",
        metavar="N",
        help="for events: whose; sapphirerapids, and with a file only what the file says. For sequences: what one "
        "switch accesses on this CPU with none, half and all of the guest's counters live, and its cycles",
    )
    listing.add_argument("--events-file", metavar="F", help="for events: those of a JSON file of Intel's perfmon")
    _format(listing)
    return parser


def _format(parser: argparse.ArgumentParser, csv: bool = True) -> None:
    choices = ("table", "json", "csv") if csv else ("table", "json")
    parser.add_argument("--format", choices=choices, default="table", help="table")


# -- output -----------------------------------------------------------------------------------------------------------


def _console() -> Any:
    try:
        from rich.console import Console
    except ImportError:
        raise VpmuError("tables need rich: pip install 'vpmu[cli]' (or use --format json)") from None
    # A pipe has no width: leave lines whole.
    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 160)


def _print(console: Any, parts: Sequence[Any]) -> None:
    with console.capture() as captured:  # rich ends the process itself if the reader of a pipe has gone
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str) and not sys.stdout.isatty())
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _print_json(value: object) -> None:
    json.dump(value, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def _say(message: str) -> None:
    print(f"vpmu: {_printable(message)}", file=sys.stderr)


# -- commands ---------------------------------------------------------------------------------------------------------


def _workload(args: argparse.Namespace) -> Workload | Recorded:
    name: str = args.workload
    if name in workloads():
        given = [
            option
            for option, value in (
                ("--recorded-seconds", args.recorded_seconds),
                ("--table", args.table),
                ("--vcpu", args.vcpu),
                ("--vcpus", args.vcpus if args.vcpus != 1 else None),
                ("--rates", args.rates),
                ("--repeat", args.repeat or None),
            )
            if value is not None
        ]
        if given:
            raise ScenarioError(f"{given[0]} belongs to recordings, and {name} is a built-in workload")
        return workload(name)
    if not os.path.lexists(name):
        if os.sep in name or "." in name:
            raise ScenarioError(f"there is no file {name!r}")
        if name in rates_names():
            raise ScenarioError(f"{name} has event rates but no exits; use it with a recording, as --rates {name}")
        raise UnknownName("workload (and there is no such file)", name, workloads())
    if name.endswith(".toml"):
        raise ScenarioError(f"{name} is no recording: vpmu run takes scenarios, vpmu.parse_workload() workloads")
    rates = args.rates or "generic"
    if rates not in rates_names():
        raise UnknownName("workload for --rates", rates, rates_names())
    with progress_bar() as progress:
        recorded = read_recording(
            name,
            recorded_seconds=args.recorded_seconds,
            table=args.table,
            vcpus=args.vcpus,
            vcpu=args.vcpu,
            rates=rates,
            repeat=args.repeat,
            progress=progress,
        )
    for message in recorded.messages:
        _say(message)
    return recorded


def _heading(scenario: Scenario) -> str:
    seconds = float(scenario.seconds or 0)
    perf = ", ".join(str(p) for p in scenario.guest_perf) or "nobody"
    line = f"{scenario.workload.name} on {scenario.cpu.name}, {seconds:g} s, seed {scenario.seed}; guest perf: {perf}"
    if scenario.host_perf:
        line += f"; host perf: {', '.join(str(e) for e in scenario.host_perf)}"
    if scenario.vcpus:
        line += f"; {len(scenario.vcpus)} vCPUs, slice {float(scenario.slice_ms):g} ms"
    if isinstance(scenario.workload, Recorded):
        rates = scenario.workload.rates
        quality = {figure.name: figure.quality for figure in rates.figures}.get("user_share", "assumed")
        line += (
            f"\nA recording holds exits and times only: event rates and the user share "
            f"({rates.user_share / 2**32:.0%}, {quality}) are those of {rates.name!r}; choose others with "
            "rates (--rates)."
        )
    return line


def _convert(scenario: Scenario, progress: Report) -> None:
    """Convert a trace before it is first replayed, which takes time where it is long."""
    source = scenario.workload
    if isinstance(source, Recorded) and isinstance(source.recording, TraceRecording) and scenario.design.has_host:
        source.trace(scenario.cpu, scenario.cost_model(), progress)


def _compare(args: argparse.Namespace) -> int:
    if args.events_file == "":
        raise ScenarioError("--events-file needs the name of a file, not ''")
    scenario = Scenario(
        cpu=cpu(args.cpu),
        design=design("none"),
        workload=_workload(args),
        guest_perf=tuple(parse_guest_perf(spec) for spec in args.guest_perf or [DEFAULT_GUEST_PERF]),
        host_perf=tuple(parse_host_perf(spec) for spec in args.host_perf or []),
        seconds=None if args.seconds is None else positive_seconds(args.seconds, "seconds"),
        seed=args.seed,
        vm_first=args.vm_first,
        what_if=args.what_if,
        enable_mediated_pmu=not args.no_mediated_pmu,
        host_hz=args.host_hz,
        events_file=args.events_file or "",
        guest_hz=args.guest_hz,
        guest_kernel=args.guest_kernel,
    )
    console: Any = _console() if args.format == "table" else None  # before the work, in case rich is missing
    with progress_bar() as progress:
        _convert(scenario, progress)
        wanted = [design(spec) for spec in args.design or designs()]
        results = compare(scenario, wanted, engine=args.engine, progress=progress)
    if args.format == "json":
        _print_json(report.comparison_dict(scenario, results))
    elif args.format == "csv":
        sys.stdout.write(report.comparison_csv(results))
    else:
        _print(console, report.comparison_table(results, _heading(scenario), console.width))
    return 0


_SCENARIO_KEYS = (*(field.name for field in dataclasses.fields(Scenario)), "recording", "event_filter", "vcpu")
_VCPU_KEYS = (*(field.name for field in dataclasses.fields(Vcpu)), "recording", "event_filter")
_RECORDING_KEYS = ("path", "recorded_seconds", "table", "vcpus", "vcpu", "rates", "repeat")


def _check_integers(value: object, path: str) -> None:
    """Refuse integers beyond 64 bits, which TOML does not have."""
    if isinstance(value, int) and abs(value) >= 1 << 64:
        raise ScenarioError(f"{path}: an integer has at most 64 bits, not {value.bit_length()}")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_integers(item, path)


def _vcpu_table(table: dict[str, Any], number: int, scenario: dict[str, Any], path: str) -> Vcpu:
    where = f"[[vcpu]] {number} in {path}"
    for key in table:
        if key not in _VCPU_KEYS:
            raise UnknownName(f"key of {where}", key, _VCPU_KEYS)
    if "event_filter" in table and "design" not in table:
        table = {"design": str(scenario.get("design", "mediated")), **table}
    return Vcpu(**_arguments(table, where, os.path.dirname(path)))


def _arguments(table: dict[str, Any], path: str, folder: str | None = None) -> dict[str, Any]:
    """Arguments of a scenario or of a vCPU; a recording's path is relative to the file's folder."""
    arguments = dict(table)
    if "recording" in arguments:
        recording = arguments.pop("recording")
        if "workload" in arguments or not isinstance(recording, dict) or not isinstance(recording.get("path"), str):
            raise ScenarioError(f"{path}: give workload, or [recording] with a path")
        for key in recording:
            if key not in _RECORDING_KEYS:
                raise UnknownName(f"key of [recording] in {path}", key, _RECORDING_KEYS)
        options = {key: value for key, value in recording.items() if key != "path"}
        with progress_bar() as progress:
            bound = read_recording(
                os.path.join(os.path.dirname(path) if folder is None else folder, recording["path"]),
                **options,
                progress=progress,
            )
        for message in bound.messages:
            _say(message)
        arguments["workload"] = bound
    for key in ("guest_perf", "host_perf"):
        if key in arguments:
            if not isinstance(arguments[key], list) or not all(isinstance(spec, str) for spec in arguments[key]):
                example = DEFAULT_GUEST_PERF if key == "guest_perf" else "cycles:pinned"
                raise ScenarioError(f'{path}: {key} must be a list of strings, such as ["{example}"]')
            arguments[key] = tuple(arguments[key])
    if "guest_pmu" in arguments:
        try:
            arguments["guest_pmu"] = GuestPmu(**arguments["guest_pmu"])
        except TypeError:
            raise ScenarioError(f"{path}: guest_pmu has version, gp and fixed") from None
    for key in ("cpu", "design", "workload"):
        if isinstance(arguments.get(key, ""), (str, Recorded)):
            continue
        raise ScenarioError(f"{path}: {key} must be a name, not {arguments[key]}")
    if "event_filter" in arguments:
        arguments["design"] = with_event_filter(
            arguments.get("design", "mediated"), arguments.pop("event_filter"), path
        )
    return arguments


def _scenario_file(path: str, vcpus: int | None = None) -> Scenario:
    """Read SCENARIO.toml; a recording's path is relative to the file. ``vcpus``: so many equal ones."""
    table = read_toml(path)
    _check_integers(table, path)
    for key in table:
        if key not in _SCENARIO_KEYS:
            raise UnknownName(f"key of {path}", key, _SCENARIO_KEYS)
    arguments = _arguments(table, path)
    given = arguments.pop("vcpu", None)
    if given is not None and (vcpus is not None or "vcpus" in arguments):
        raise ScenarioError(f"{path}: give [[vcpu]] tables, or a number of equal vCPUs, not both")
    if vcpus is not None:
        arguments["vcpus"] = vcpus
    if "vcpus" in arguments and not isinstance(arguments["vcpus"], int):
        raise ScenarioError(f"{path}: vcpus is a number of equal vCPUs; tables are called [[vcpu]]")
    if given is not None:
        if not isinstance(given, list) or not given or not all(isinstance(one, dict) for one in given):
            raise ScenarioError(f"{path}: vcpu must be tables, [[vcpu]], one for each vCPU")
        arguments["vcpus"] = tuple(_vcpu_table(one, i, arguments, path) for i, one in enumerate(given))
    if not isinstance(arguments.get("costs", {}), dict):
        raise ScenarioError(f"{path}: costs is a table of cycles by name ({', '.join(COST_NAMES[:3])}, …)")
    return Scenario(**arguments)


def _run(args: argparse.Namespace) -> int:
    scenario = _scenario_file(args.scenario, args.vcpus)
    name = str(scenario.design)
    console: Any = _console() if args.format == "table" else None
    with progress_bar() as progress:
        for guest in scenario.guests():
            _convert(guest, progress)
        result: Result = simulate(scenario, args.engine, progress=lambda at, end: progress(name, at, end))
    if args.format == "json":
        _print_json({**result.to_dict(), "ledger": result.ledger(), "provenance": dict(result.provenance)})
    else:
        _print(console, report.run_table(result, _heading(scenario), console.width))
    return 0


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return report.thousands(value) if isinstance(value, (int, float)) else _printable(str(value))


def _printable(text: str) -> str:
    """What a terminal can show; the rest, which it might obey, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _list(args: argparse.Namespace) -> int:
    columns, rows = list_rows(args.what, args.cpu, args.events_file)
    if args.format == "json":
        _print_json(cpu_dicts() if args.what == "cpus" else [dict(zip(columns, row, strict=True)) for row in rows])
        return 0
    if args.format == "csv":
        sys.stdout.write(report.rows_csv(columns, rows))
        return 0
    cells = [[_cell(cell) for cell in row] for row in rows]
    justified = [(name, "wrap" if name in ("summary", "notes", "quirks") else "left") for name in columns]
    console = _console()
    parts: list[Any] = [report.rich_table(justified, cells)]
    if args.what == "cpus":
        parts += ["", CPUS_NOTE]
    elif args.what == "sequences" and args.cpu is not None:
        parts += ["", SEQUENCES_NOTE]
    elif args.what == "events" and args.events_file is None:
        parts += ["", EVENTS_NOTE]
    _print(console, parts)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        0; 2 on bad input, after one line on standard error; 130 if interrupted; 1 if the output cannot be written.
    """
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (open until the process ends)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows "?"
    try:
        args = _parser().parse_args(argv)
        status = {"compare": _compare, "run": _run, "list": _list}[args.command](args)
        sys.stdout.flush()
        return status
    except VpmuError as error:
        _say(" ".join(str(error).split()))
        return 2
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except BrokenPipeError:
        # The reader has gone; keep the interpreter from flushing into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _say(f"cannot write: {error.strerror or error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
