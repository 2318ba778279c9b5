"""Say what is wrong and what to try, then stop: the Python twin of `die` in lib.sh.

Knows the two lines a person sees. Knows nothing of what went wrong: whoever raises a Problem words it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable


class Problem(Exception):
    """Something the person running a script can act on: `message` names the thing, `way_out` what to try."""

    def __init__(self, message: str, way_out: str = ""):
        super().__init__(message)
        self.message = message
        self.way_out = way_out


def run(main: Callable[[], int | None]) -> None:
    """Run a script's main and exit: 0 done, 1 a Problem (told, without a traceback), 130 stopped by Ctrl-C.

    argparse itself exits with 2 for a wrong command line. Any other exception is our mistake and keeps its traceback.
    """
    try:
        sys.exit(main() or 0)
    except Problem as problem:
        print(f"error: {problem.message}", file=sys.stderr)
        if problem.way_out:
            print(f"  try: {problem.way_out}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
