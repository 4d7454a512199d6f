"""``python -m vpmu.recordings generate EXITS``: a synthetic trace on standard output."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from vpmu._errors import VpmuError
from vpmu._progress import progress_bar
from vpmu.recordings._generate import generate

_NAME = "python -m vpmu.recordings"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        0; 2 on bad input and 1 if the text cannot be written, after one line on standard error; 130 if interrupted.
    """
    parser = argparse.ArgumentParser(prog=_NAME, description="Tools for recordings.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    making = commands.add_parser(
        "generate",
        help="write a synthetic ftrace text to standard output",
        description="Write the ftrace text of one vCPU with EXITS exits to standard output, about 190 bytes each.",
        epilog=f"example: {_NAME} generate 50_000_000 > trace.txt && vpmu compare trace.txt",
    )
    making.add_argument("exits", type=int, metavar="EXITS", help="how many exits")
    making.add_argument("--seed", type=int, default=1, metavar="N", help="same seed, same text; 1")
    args = parser.parse_args(argv)
    try:
        done = 0
        with progress_bar() as progress:
            for text in generate(args.exits, args.seed):
                sys.stdout.buffer.write(text)
                done += text.count(b": kvm_exit:")
                progress("generating", done, args.exits)
        sys.stdout.buffer.flush()
    except VpmuError as error:
        print(f"{_NAME}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{_NAME}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has gone; nothing is left to be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"{_NAME}: cannot write: {error.strerror or error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
