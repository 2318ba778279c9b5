"""Open Oracle Cloud's APIs with the person's own credentials, and say of a refusal which right is missing.

Knows ~/.oci/config, the SDK's clients and IAM policy statements. Knows nothing of networks, quotas or images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import oci
import oci.auth.signers
import oci.autoscaling
import oci.limits
import oci.load_balancer
import oci.object_storage
import oci.resource_manager
import oci.work_requests

from ..problem import Problem

# One home for what a person must be allowed. COMPARTMENT stands for the name of the compartment worked in.
STATEMENTS = {
    "compartments": "Allow group GROUP to inspect compartments in tenancy",
    "quota": "Allow group GROUP to read resource-availability in tenancy",
    "instances": "Allow group GROUP to manage instance-family in compartment COMPARTMENT",
    "volumes": "Allow group GROUP to use volume-family in compartment COMPARTMENT",
    "network": "Allow group GROUP to use virtual-network-family in compartment COMPARTMENT",
    # Packer writes the new image's capability schema; without this its last step fails although the image exists.
    "schema": "Allow group GROUP to manage compute-image-capability-schema in tenancy",
    "storage": "Allow group GROUP to manage object-family in compartment COMPARTMENT",
    "stacks": "Allow group GROUP to manage orm-family in compartment COMPARTMENT",
    "pools": "Allow group GROUP to manage compute-management-family in compartment COMPARTMENT",
    "networks": "Allow group GROUP to manage virtual-network-family in compartment COMPARTMENT",
    "balancers": "Allow group GROUP to manage load-balancers in compartment COMPARTMENT",
    # An image may be used anywhere in the tenancy: before one is deleted, all of it is looked at.
    "all instances": "Allow group GROUP to read instance-family in tenancy",
    "all pools": "Allow group GROUP to read compute-management-family in tenancy",
    "all stacks": "Allow group GROUP to read orm-family in tenancy",
    "autoscaling": "Allow group GROUP to manage auto-scaling-configurations in compartment COMPARTMENT",
    "capacity": "Allow group GROUP to manage compute-capacity-reports in tenancy",
}
BAKING = ("compartments", "quota", "instances", "volumes", "network", "schema")
TIMEOUT_S = (10, 60)  # connect, read


@dataclass(frozen=True)
class Session:
    """The opened APIs, each made when it is first asked, and where their credentials came from."""

    config_file: Path | None  # None: the instance's own rights
    profile: str
    region: str
    tenancy: str
    open: Callable[[type], Any]  # makes a client of one of the SDK's classes

    @cached_property
    def identity(self) -> oci.identity.IdentityClient:
        return self.open(oci.identity.IdentityClient)

    @cached_property
    def compute(self) -> oci.core.ComputeClient:
        return self.open(oci.core.ComputeClient)

    @cached_property
    def pools(self) -> oci.core.ComputeManagementClient:
        return self.open(oci.core.ComputeManagementClient)

    @cached_property
    def network(self) -> oci.core.VirtualNetworkClient:
        return self.open(oci.core.VirtualNetworkClient)

    @cached_property
    def balancers(self) -> oci.load_balancer.LoadBalancerClient:
        return self.open(oci.load_balancer.LoadBalancerClient)

    @cached_property
    def autoscaling(self) -> oci.autoscaling.AutoScalingClient:
        return self.open(oci.autoscaling.AutoScalingClient)

    @cached_property
    def limits(self) -> oci.limits.LimitsClient:
        return self.open(oci.limits.LimitsClient)

    @cached_property
    def storage(self) -> oci.object_storage.ObjectStorageClient:
        return self.open(oci.object_storage.ObjectStorageClient)

    @cached_property
    def stacks(self) -> oci.resource_manager.ResourceManagerClient:
        return self.open(oci.resource_manager.ResourceManagerClient)

    @cached_property
    def work_requests(self) -> oci.work_requests.WorkRequestClient:
        return self.open(oci.work_requests.WorkRequestClient)


def open_session(environ: Mapping[str, str], *, needs_config_file: bool = False) -> Session:
    """Read the credentials and make sure that they parse; asks the cloud nothing yet.

    OCI_CONFIG_FILE and OCI_CLI_PROFILE choose file and profile, and OCI_CLI_AUTH=instance_principal takes the rights of
    the instance that this runs on, all as they do for the oci command line. needs_config_file: whoever calls hands the
    file on (Packer), so no instance principal. LLAMAKILN_OCI_ENDPOINT sends every call to that one address instead: the
    tests' loopback double.
    """
    # A person waits for these answers and can run the checks again: no silent minutes of retries.
    endpoint = environ.get("LLAMAKILN_OCI_ENDPOINT") or None
    options = {
        "service_endpoint": endpoint,
        "timeout": TIMEOUT_S,
        "retry_strategy": oci.retry.NoneRetryStrategy(),
    }
    way = environ.get("OCI_CLI_AUTH") or "api_key"
    if way == "instance_principal" and not needs_config_file:
        return open_instance(environ, options)
    if way != "api_key":
        raise Problem(
            f"OCI_CLI_AUTH={way}: must be api_key" + ("" if needs_config_file else " or instance_principal"),
            "unset OCI_CLI_AUTH, and name a profile with an API key in OCI_CLI_PROFILE",
        )
    config_file = Path(environ.get("OCI_CONFIG_FILE") or "~/.oci/config").expanduser()
    profile = environ.get("OCI_CLI_PROFILE") or oci.config.DEFAULT_PROFILE
    if not config_file.is_file():
        raise Problem(f"no OCI credentials: {config_file} does not exist", "oci setup config, or set OCI_CONFIG_FILE")
    try:
        config = oci.config.from_file(str(config_file), profile)
        if config.get("security_token_file"):
            raise Problem(
                f"profile {profile} of {config_file} is a session of an hour; this needs a profile with an API key",
                "oci setup config --profile ..., then OCI_CLI_PROFILE=...",
            )
        oci.config.validate_config(config)
        session = Session(
            config_file=config_file,
            profile=profile,
            region=config["region"],
            tenancy=config["tenancy"],
            open=lambda kind: kind(config, **options),
        )
        session.identity  # noqa: B018  reads the key file: a fault in it is told here
        return session
    except oci.exceptions.InvalidConfig as error:
        faults = "; ".join(f"{name} is {fault}" for name, fault in error.errors.items())
        raise Problem(f"profile {profile} of {config_file}: {faults}", "oci setup config writes all of it") from error
    except (oci.exceptions.ClientError, FileNotFoundError, ValueError) as error:
        raise Problem(f"profile {profile} of {config_file}: {error}", "oci setup config writes all of it") from error


def open_instance(environ: Mapping[str, str], options: dict[str, Any]) -> Session:
    """The rights that a dynamic group gives to the instance this runs on."""
    try:
        signer = oci.auth.signers.InstancePrincipalsSecurityTokenSigner()
    except Exception as error:  # no metadata service, no certificate, a refusal: whatever the SDK meets
        raise Problem(
            f"OCI_CLI_AUTH=instance_principal, but this machine gets no credentials of its own: {error}",
            "run on an OCI instance that a dynamic group names, or unset OCI_CLI_AUTH",
        ) from error
    region = environ.get("OCI_CLI_REGION") or signer.region
    return Session(
        config_file=None,
        profile="instance principal",
        region=region,
        tenancy=signer.tenancy_id,
        open=lambda kind: kind({"region": region}, signer=signer, **options),
    )


def patient(session: Session) -> Session:
    """The same rights, with clients that ask again when Oracle Cloud is busy: for work of minutes, which must not end
    because of a passing fault."""

    def open_patient(kind: type) -> Any:
        client = session.open(kind)
        client.retry_strategy = oci.retry.DEFAULT_RETRY_STRATEGY
        return client

    return replace(session, open=open_patient)


@contextlib.contextmanager
def asking(what: str, *needs: str, hint: str = "") -> Iterator[None]:
    """Turn a refused or failed call within the block into a Problem.

    what: the thing asked for, as a person names it ("subnet ocid1..."). needs: keys of STATEMENTS that grant the call.
    hint: what else may be wrong, said first.
    """
    try:
        yield
    except oci.exceptions.ServiceError as error:
        if error.status == 401:
            raise Problem(
                f"Oracle Cloud does not accept the credentials: {error.message}",
                "upload the public half of key_file under your user's API keys, and compare user, tenancy, fingerprint"
                " and region in the profile; the machine's clock may be off by at most 5 minutes",
            ) from error
        if error.status in (403, 404):
            grant = " and ".join(f"the statement `{STATEMENTS[need]}`" for need in needs)
            ways = [way for way in (hint, f"add {grant} to a policy" if grant else "") if way]
            raise Problem(f"{what}: not there, or not yours to use ({error.code})", "; else ".join(ways)) from error
        raise Problem(
            f"{what}: Oracle Cloud answered {error.status} {error.code}: {error.message}", "run again in a minute"
        ) from error
    except (oci.exceptions.RequestException, oci.exceptions.ConnectTimeout) as error:
        raise Problem(f"{what}: Oracle Cloud cannot be reached: {error}", "check the network and the region") from error


def list_all(call: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
    """Every item of a listing that OCI answers in pages."""
    return oci.pagination.list_call_get_all_results(call, *arguments, **options).data


def check_compartment(session: Session, ocid: str) -> str:
    """The name of the compartment, which is there and in use; the first call, so wrong credentials are told here."""
    if ocid == session.tenancy:
        return "the root compartment"
    with asking(f"compartment {ocid}", "compartments", hint="check the OCID and the profile's tenancy"):
        compartment = session.identity.get_compartment(ocid).data
    if compartment.lifecycle_state != "ACTIVE":
        raise Problem(f"compartment {compartment.name} is {compartment.lifecycle_state}", "choose an active one")
    return compartment.name
