"""Which provider of oracle/oci the tests' Terraform runs with: the stand-in, or a real one, and either on the tenancy.

PROVIDER is the path of a terraform-provider-oci (8.28.0 or newer); without it the stand-in serves. A real one reaches
the tenancy by settings of its own: CLIENT_HOST_OVERRIDES for each client, TF_VAR_* for the credentials, and a relay for
the one client that has no override. Knows how Terraform finds a provider. Knows no resource.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cloud.person import write_key
from tests.cloud.relay import Relay
from tests.cloud.tenancy import FINGERPRINT, REGION, TENANCY, USER, Tenancy

PREFIX = "terraform-provider-oci"  # of the file's name, by which Terraform knows it
# The provider's names of the clients that the stack's resources use. That of work requests knows no override.
CLIENTS = (
    "oci_auto_scaling.AutoScalingClient",
    "oci_bastion.BastionClient",
    "oci_core.ComputeClient",
    "oci_core.ComputeManagementClient",
    "oci_core.VirtualNetworkClient",
    "oci_identity.IdentityClient",
    "oci_load_balancer.LoadBalancerClient",
    "oci_logging.LoggingManagementClient",
    "oci_monitoring.MonitoringClient",
    "oci_ons.NotificationControlPlaneClient",
    "oci_ons.NotificationDataPlaneClient",
    "oci_waf.WafClient",
)
_compiling = threading.Lock()


@dataclass(frozen=True)
class Offer:
    """A Terraform to start, what to set for it, and how long its longest command may take."""

    terraform: Path
    variables: dict[str, str]
    timeout_s: float

    def environment(self, inherited: Mapping[str, str], **more: str) -> dict[str, str]:
        """Nothing of what a person may have set for other work."""
        kept = {name: value for name, value in inherited.items() if not name.startswith(("TF_", "OCI_"))}
        kept = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")}
        return {**kept, **more, **self.variables}


def chosen() -> Path | None:
    """The real provider that PROVIDER names; None for the stand-in. Raises FileNotFoundError for what is no program."""
    named = os.environ.get("PROVIDER")
    if not named:
        return None
    binary = Path(named).resolve()
    if not os.access(binary, os.X_OK) or binary.is_dir():
        raise FileNotFoundError(
            f"PROVIDER={named}: must be the path of a {PREFIX} that can be run (`make test` knows `registry` too)"
        )
    return binary


def said() -> str:
    binary = chosen()
    way_out = "PROVIDER=/path/to/terraform-provider-oci runs them with Oracle's"
    return f"stack tests: OCI provider {binary}" if binary else f"stack tests: the stand-in OCI provider ({way_out})"


@contextmanager
def offered(tenancy: Tenancy, home: Path, folder: Path) -> Iterator[Offer]:
    """home: what scripts/setup/terraform.sh made. folder: for what must be written down; it is made."""
    binary = chosen()
    with real(tenancy, home, folder, binary) if binary else stand_in(tenancy, home) as offer:
        yield offer


@contextmanager
def stand_in(tenancy: Tenancy, home: Path) -> Iterator[Offer]:
    from tests.cloud.provider import Provider  # needs the built Terraform's protocol
    from tests.cloud.provider_table import Cloud

    with _compiling:  # the protocol is compiled once
        provider = Provider(Cloud(tenancy.config, tenancy.url), home / "tfplugin5.proto")
    with provider:
        yield Offer(home / "terraform", {"TF_REATTACH_PROVIDERS": provider.reattach}, timeout_s=240)


@contextmanager
def real(tenancy: Tenancy, home: Path, folder: Path, binary: Path) -> Iterator[Offer]:
    plugins = folder / "plugins"
    plugins.mkdir(parents=True)
    (plugins / PREFIX).symlink_to(binary)
    (folder / "terraform.rc").write_text(
        "provider_installation {\n"
        f'  dev_overrides {{\n    "oracle/oci" = "{plugins}"\n    "hashicorp/tls" = "{home}"\n  }}\n'
        "}\n"
    )
    write_key(folder / "key.pem", tenancy.key)
    variables = {
        "TF_CLI_CONFIG_FILE": str(folder / "terraform.rc"),
        "CHECKPOINT_DISABLE": "1",
        "CLIENT_HOST_OVERRIDES": ";".join(f"{name}={tenancy.url}" for name in CLIENTS),
        "TF_VAR_tenancy_ocid": TENANCY,
        "TF_VAR_user_ocid": USER,
        "TF_VAR_fingerprint": FINGERPRINT,
        "TF_VAR_private_key_path": str(folder / "key.pem"),
        "TF_VAR_region": REGION,
    }
    with Relay(tenancy.port, folder) as relay:
        # the wrapper beside it would set a configuration of its own
        yield Offer(home / "terraform.bin", {**variables, **relay.environment}, timeout_s=840)
