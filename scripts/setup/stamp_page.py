"""Write the stamp of the page's files into everything that names it: the HTML and nginx.conf.

The stamp is a hash of names and contents of all files below service/static but the HTML, so it changes exactly when
what a browser keeps for ever would be wrong. Run it after every change there; a test holds it. `--check` only looks.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

from ..files import REPOSITORY

STATIC = REPOSITORY / "service" / "static"
NAMERS = (STATIC / "index.html", STATIC / "status.html", REPOSITORY / "packer/files/etc/nginx/nginx.conf")


def compute_stamp() -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in STATIC.rglob("*") if path.is_file() and path.suffix != ".html"):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(STATIC).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:12]


def stamp(text: str, value: str) -> str:
    return re.sub(r"/static/[0-9a-f]{12}/", f"/static/{value}/", text)


def find_stale() -> list[Path]:
    """Which files name another stamp than the right one."""
    value = compute_stamp()
    return [path for path in NAMERS if path.read_text() != stamp(path.read_text(), value)]


def main(arguments: list[str]) -> int:
    stale = find_stale()
    for path in stale:
        if "--check" not in arguments:
            path.write_text(stamp(path.read_text(), compute_stamp()))
        print(path.relative_to(REPOSITORY))
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
