"""Answer one HTTP request as Oracle Cloud's instance metadata service (IMDSv2) does: `imds.py FOLDER`, on stdin/stdout.

QEMU starts one for each connection that a machine opens to 169.254.169.254:80 (qemu.py, `metadata="oracle"`), so an
image can be booted here as it will be there. FOLDER holds what is told, instance.json and vnics.json, and a line for
each request in requests.log. IMDSv1 is off: without `Authorization: Bearer Oracle` nothing is told.
"""

import http.client
import json
import sys
from pathlib import Path

RESOURCES = {"/opc/v2/instance/": "instance.json", "/opc/v2/vnics/": "vnics.json"}
AUTHORIZATION = "Bearer Oracle"


def answer(folder: Path, method: str, path: str, authorization: str | None) -> tuple[int, bytes]:
    """Return status and JSON body. A path below /opc/v2/instance/ names a part of it: .../metadata/user_data."""
    resource = next((each for each in RESOURCES if f"{path.rstrip('/')}/".startswith(each)), None)
    if resource is None:
        return 404, b"{}"
    if authorization != AUTHORIZATION:
        return 403, b"{}"
    if method != "GET":
        return 405, b"{}"
    told = json.loads((folder / RESOURCES[resource]).read_text())
    for part in filter(None, f"{path}/".removeprefix(resource).split("/")):
        if not isinstance(told, dict) or part not in told:
            return 404, b"{}"
        told = told[part]
    return 200, told.encode() if isinstance(told, str) else json.dumps(told).encode()


def main() -> None:
    folder = Path(sys.argv[1])
    request_line = sys.stdin.buffer.readline(8192).decode("latin-1").split()
    if len(request_line) != 3:  # a connection that only looked whether somebody is there
        return
    method, path, _ = request_line
    authorization = http.client.parse_headers(sys.stdin.buffer).get("Authorization")
    status, body = answer(folder, method, path, authorization)
    with open(folder / "requests.log", "a") as log:
        log.write(f"{status} {method} {path}\n")
    head = f"HTTP/1.1 {status} {http.client.responses[status]}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    sys.stdout.buffer.write(head.encode() + body)


if __name__ == "__main__":
    main()
