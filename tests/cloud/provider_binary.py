"""The stand-in provider as a program of its own, started by Terraform and told where to go as Oracle's own is.

For the tests of how PROVIDER is wired: what this reads from its environment is what the real one reads. One client,
that of work requests, takes no override there and so takes none here: it asks Oracle's own host, through the proxy.

usage: python -m tests.cloud.provider_binary tfplugin5.proto
"""

from __future__ import annotations

import base64
import datetime
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.cloud.provider import Provider
from tests.cloud.provider_table import Cloud

COOKIE = "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2"  # by which a plugin knows Terraform
WORDS = {"auto_scaling": "autoscaling"}  # the provider's name of a package -> the SDK's


class OwnCloud(Cloud):
    """Clients where CLIENT_HOST_OVERRIDES says; any other at Oracle's own address."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        names = {"tenancy": "tenancy_ocid", "user": "user_ocid", "fingerprint": "fingerprint", "region": "region"}
        config = {name: environ[f"TF_VAR_{said}"] for name, said in names.items()}
        super().__init__({**config, "key_file": environ["TF_VAR_private_key_path"]}, "")
        pairs = dict(one.split("=", 1) for one in environ["CLIENT_HOST_OVERRIDES"].split(";"))
        self.urls: dict[str, str] = {}
        for name, url in pairs.items():
            package, client = name.removeprefix("oci_").split(".")
            self.urls[f"{WORDS.get(package, package)}.{client}"] = url

    def url_of(self, name: str) -> str | None:
        return self.urls.get(name)


def make_certificate() -> tuple[bytes, bytes, bytes]:
    """Key and certificate as PEM, and the certificate as DER: Terraform trusts the one that it is told."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    return private, certificate.public_bytes(pem), certificate.public_bytes(serialization.Encoding.DER)


def main() -> None:
    if os.environ.get("TF_PLUGIN_MAGIC_COOKIE") != COOKIE:
        sys.exit("this is a Terraform plugin: Terraform starts it")
    os.environ["REQUESTS_CA_BUNDLE"] = os.environ["custom_cert_location"]  # noqa: SIM112  the real provider's name
    key, certificate, told = make_certificate()
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    with Provider(OwnCloud(os.environ), Path(sys.argv[1]), credentials) as provider:
        # go-plugin's greeting: its version, the protocol's, where, how, and whom to trust
        trusted = base64.b64encode(told).decode().rstrip("=")
        print(f"1|5|tcp|{provider.address}|grpc|{trusted}", flush=True)
        provider.wait()


if __name__ == "__main__":
    main()
