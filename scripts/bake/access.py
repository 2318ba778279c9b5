"""Talk to a machine through two ports on loopback: ssh with a key of its own, and HTTP.

Knows ssh's and HTTP's words. Knows nothing of how the machine came up, or of waiting for it.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
from pathlib import Path


class Access:
    """One machine as seen from this host. workdir: has the private key `key`, and ssh's files while it is talked to."""

    def __init__(self, workdir: Path, ssh_port: int, http_port: int) -> None:
        self.workdir, self.ssh_port, self.http_port = workdir, ssh_port, http_port
        self.user: str | None = None

    @property
    def url(self) -> str:
        """Where the machine's port 80 is, seen from this host."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def ssh_config(self) -> Path:
        """An ssh_config with one host, `node`, and one connection shared by all commands: logins are slow under TCG."""
        path = self.workdir / "ssh_config"
        if not path.exists():
            options = {
                "HostName": "127.0.0.1",
                "Port": self.ssh_port,
                "IdentityFile": self.workdir / "key",
                "IdentitiesOnly": "yes",
                "UserKnownHostsFile": self.workdir / "known_hosts",
                "StrictHostKeyChecking": "accept-new",  # the first key is learnt; a changed one is an error
                "BatchMode": "yes",
                "ControlMaster": "auto",
                "ControlPath": self.workdir / "ssh.sock",
                "ControlPersist": "10m",
                "ConnectTimeout": 30,
                "ServerAliveInterval": 15,
                "LogLevel": "ERROR",
            }
            path.write_text("Host node\n" + "".join(f"  {key} {value}\n" for key, value in options.items()))
        return path

    def ssh_command(self, *remote: str) -> list[str]:
        """Return the ssh command line that runs `remote` (or a shell) on the machine."""
        user = ["-l", self.user] if self.user else []
        return ["ssh", "-F", str(self.ssh_config), *user, "node", *remote]

    def ssh(self, remote: str, timeout_s: float = 120) -> subprocess.CompletedProcess:
        """Run one shell command on the machine; the caller looks at returncode, stdout and stderr."""
        return subprocess.run(self.ssh_command(remote), capture_output=True, text=True, timeout=timeout_s)

    def has_banner(self, timeout_s: float = 5) -> bool:
        """Say whether an ssh server greets on the machine's port 22."""
        try:
            with socket.create_connection(("127.0.0.1", self.ssh_port), timeout_s) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def http_status(self, path: str, timeout_s: float = 10) -> int | None:
        """Return the status of GET path through the machine's port 80, or None while nobody answers there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
