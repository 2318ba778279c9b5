"""The page's files: which path shows which file, and the headers they go out with. NGINX does the same from disk.

Everything but the HTML lies below /static/STAMP/, where STAMP is a hash of those files (scripts/setup/stamp_page.py
writes it into the HTML and into nginx.conf), so a browser may keep them for ever, and a new page never meets an old
script. Knows no HTTP library.
"""

from __future__ import annotations

import mimetypes
import re
from pathlib import Path

STATIC = Path(__file__).parents[1] / "static"
HTML = {"/": "index.html", "/status": "status.html"}
STAMP = re.compile(r"/static/([0-9a-f]{12})/")

# The page needs nothing from anywhere else, and no text becomes markup but through DOMPurify. NGINX sends the same; a
# test holds them together.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-DNS-Prefetch-Control": "off",
    "X-Frame-Options": "DENY",
}
ASK_AGAIN = "no-cache"  # the ETag makes it a 304
KEEP = "public, max-age=31536000, immutable"

mimetypes.add_type("text/javascript", ".js")  # some systems' tables say otherwise


def read_stamp() -> str:
    """The stamp that the HTML asks for."""
    stamps = {stamp for name in HTML.values() for stamp in STAMP.findall((STATIC / name).read_text())}
    assert len(stamps) == 1, f"run `python -m scripts.setup.stamp_page`: {stamps}"
    return stamps.pop()


def list_assets() -> list[str]:
    """The files below static/ that the HTML may need, by their paths in it."""
    files = sorted(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file())
    return [file for file in files if not file.endswith(".html")]


def map_paths() -> dict[str, tuple[str, str]]:
    """Path -> (file below static/, Cache-Control) of everything there is."""
    stamp = read_stamp()
    html = {path: (name, ASK_AGAIN) for path, name in HTML.items()}
    return html | {f"/static/{stamp}/{name}": (name, KEEP) for name in list_assets()}
