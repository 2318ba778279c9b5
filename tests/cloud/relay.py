"""An HTTPS proxy on loopback that brings calls for Oracle's hosts to a tenancy, and nothing anywhere else.

For a program that lets nobody choose the address of one of its clients, but goes where HTTPS_PROXY says: Oracle's
provider asks for Compute's work requests so. `relay.environment` is what such a program must be started with. Knows
CONNECT and TLS. Knows nothing of what it carries.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.cloud.tenancy import REGION

DOMAINS = (f"{REGION}.oraclecloud.com", f"{REGION}.oci.oraclecloud.com")
TIMEOUT_S = 60


class Relay:
    """Leave the `with` block to stop it."""

    def __init__(self, port: int, folder: Path) -> None:
        """port: of the tenancy on loopback. folder: where the certificate goes, which is made for this relay alone."""
        self.certificate = folder / "relay.pem"
        write_certificate(self.certificate)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.certificate)
        self.port = port
        self.hosts: list[str] = []  # that were asked for, in order
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.relay = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        address = f"http://127.0.0.1:{self._server.server_address[1]}"
        # the last is the provider's own; Go's default is the one before
        trusted = dict.fromkeys(("SSL_CERT_FILE", "custom_cert_location"), str(self.certificate))
        return {"HTTPS_PROXY": address, "https_proxy": address, "NO_PROXY": "127.0.0.1", **trusted}


class Handler(socketserver.StreamRequestHandler):
    timeout = TIMEOUT_S

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # either side may end it
            self._carry()

    def _carry(self) -> None:
        verb, target, _version = self.rfile.readline().decode().split()
        while self.rfile.readline().strip():
            pass
        host = target.rsplit(":", 1)[0]
        relay: Relay = self.server.relay
        relay.hosts.append(host)
        if verb != "CONNECT" or host.partition(".")[2] not in DOMAINS:
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with (
            relay.context.wrap_socket(self.connection, server_side=True) as caller,
            socket.create_connection(("127.0.0.1", relay.port), timeout=TIMEOUT_S) as tenancy,
        ):
            back = threading.Thread(target=copy, args=(tenancy, caller), daemon=True)
            back.start()
            copy(caller, tenancy)
            back.join()


def copy(source: socket.socket, target: socket.socket) -> None:
    """Until the source ends; then the target is told so."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(1 << 16):
            target.sendall(chunk)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def write_certificate(file: Path) -> None:
    """Key and self-signed certificate for Oracle's hosts in the tests' region; it is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback tenancy")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"*.{domain}") for domain in DOMAINS]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    file.touch(mode=0o600)
    file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + certificate.public_bytes(pem))
