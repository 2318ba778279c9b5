"""Open Oracle Cloud's APIs with the person's own credentials, and say of a refusal which right is missing.

Knows ~/.oci/config, the SDK's clients and IAM policy statements. Knows nothing of networks, quotas or images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oci
import oci.limits
from problem import Problem

# One home for what the bake's user must be allowed. COMPARTMENT stands for the names in the pkrvars file.
STATEMENTS = {
    "compartments": "Allow group GROUP to inspect compartments in tenancy",
    "quota": "Allow group GROUP to read resource-availability in tenancy",
    "instances": "Allow group GROUP to manage instance-family in compartment COMPARTMENT",
    "volumes": "Allow group GROUP to use volume-family in compartment COMPARTMENT",
    "network": "Allow group GROUP to use virtual-network-family in compartment COMPARTMENT",
    # Packer writes the new image's capability schema; without this its last step fails although the image exists.
    "schema": "Allow group GROUP to manage compute-image-capability-schema in tenancy",
}
TIMEOUT_S = (10, 60)  # connect, read


@dataclass(frozen=True)
class Session:
    """The opened APIs, and where their credentials came from, so that Packer can be given the same."""

    config_file: Path
    profile: str
    region: str
    tenancy: str
    identity: oci.identity.IdentityClient
    compute: oci.core.ComputeClient
    network: oci.core.VirtualNetworkClient
    limits: oci.limits.LimitsClient


def open_session(environ: Mapping[str, str]) -> Session:
    """Read the credentials and make the clients; asks the cloud nothing yet.

    OCI_CONFIG_FILE and OCI_CLI_PROFILE choose file and profile as they do for the oci command line.
    LLAMAKILN_OCI_ENDPOINT sends every call to that one address instead: the tests' loopback double.
    """
    config_file = Path(environ.get("OCI_CONFIG_FILE") or "~/.oci/config").expanduser()
    profile = environ.get("OCI_CLI_PROFILE") or oci.config.DEFAULT_PROFILE
    endpoint = environ.get("LLAMAKILN_OCI_ENDPOINT") or None
    if not config_file.is_file():
        raise Problem(f"no OCI credentials: {config_file} does not exist", "oci setup config, or set OCI_CONFIG_FILE")
    try:
        config = oci.config.from_file(str(config_file), profile)
        if config.get("security_token_file"):
            raise Problem(
                f"profile {profile} of {config_file} is a session of an hour; a bake needs a profile with an API key",
                "oci setup config --profile ..., then OCI_CLI_PROFILE=...",
            )
        oci.config.validate_config(config)
        # A person waits for these answers and can run the checks again: no silent minutes of retries.
        once = oci.retry.NoneRetryStrategy()
        options = {"service_endpoint": endpoint, "timeout": TIMEOUT_S, "retry_strategy": once}
        return Session(
            config_file=config_file,
            profile=profile,
            region=config["region"],
            tenancy=config["tenancy"],
            identity=oci.identity.IdentityClient(config, **options),
            compute=oci.core.ComputeClient(config, **options),
            network=oci.core.VirtualNetworkClient(config, **options),
            limits=oci.limits.LimitsClient(config, **options),
        )
    except oci.exceptions.InvalidConfig as error:
        faults = "; ".join(f"{name} is {fault}" for name, fault in error.errors.items())
        raise Problem(f"profile {profile} of {config_file}: {faults}", "oci setup config writes all of it") from error
    except (oci.exceptions.ClientError, FileNotFoundError, ValueError) as error:
        raise Problem(f"profile {profile} of {config_file}: {error}", "oci setup config writes all of it") from error


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
