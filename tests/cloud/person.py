"""A person's machine for a test of a script: credentials for the loopback tenancy, and nothing that leads elsewhere."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.cloud.tenancy import Tenancy


def environment(tenancy: Tenancy, folder: Path) -> dict[str, str]:
    """What to set so that scripts talk to the tenancy; writes ~/.oci/config's twin into `folder`."""
    config, key = folder / "config", folder / "key.pem"
    write_key(key, tenancy.key)
    config.touch(mode=0o600)
    config.write_text(config_text(tenancy, key))
    return {"OCI_CONFIG_FILE": str(config), "LLAMAKILN_OCI_ENDPOINT": tenancy.url}


def write_key(file: Path, key: rsa.RSAPrivateKey) -> None:
    form = serialization.PrivateFormat.TraditionalOpenSSL  # PKCS#1, which every Packer reads
    file.touch(mode=0o600)
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def config_text(tenancy: Tenancy, key: Path) -> str:
    names = ("user", "fingerprint", "tenancy", "region")
    return "[DEFAULT]\n" + "".join(f"{name}={tenancy.config[name]}\n" for name in names) + f"key_file={key}\n"


def settle_in(monkeypatch: pytest.MonkeyPatch, tenancy: Tenancy, folder: Path) -> None:
    """This process works as that person."""
    for name in ("http_proxy", "HTTP_PROXY", "OCI_CLI_PROFILE", "OCI_CLI_AUTH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment(tenancy, folder).items():
        monkeypatch.setenv(name, value)


class Terminal(io.StringIO):
    """A keyboard on which the answer was typed already."""

    def isatty(self) -> bool:
        return True
