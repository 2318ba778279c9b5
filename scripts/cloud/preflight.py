"""Check that a bake in Oracle Cloud can succeed before anything is launched that costs money or time.

Each check asks the cloud one question. Knows the account; knows nothing of Packer, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..problem import Problem
from .session import Session, asking, list_all

Variables = dict[str, Any]
Log = Callable[[str], None]

EVERYWHERE = "0.0.0.0/0"
SSH_PORT = 22
TCP = "6"  # IANA protocol number, as security rules name it
BASE_IMAGE = "Canonical-Ubuntu-22.04-aarch64-"  # what packer/oci's filter looks for; not the Minimal images

# The service limits that a build instance counts against: OCPUs and GB, each per availability domain.
LIMITS = {
    "VM.Standard.A2.Flex": {"ocpus": "standard-a2-core-count", "memory_gb": "standard-a2-memory-count"},
    "VM.Standard.A1.Flex": {"ocpus": "standard-a1-core-count", "memory_gb": "standard-a1-memory-count"},
}


def check_account(session: Session, variables: Variables, log: Log) -> None:
    """Ask everything and report every fault at once; with wrong credentials no other answer would mean anything."""
    check_credentials(session, variables, log)
    checks = (check_compartments, check_subnet, check_shape, check_quota, check_base_image)
    check_all(*(partial(check, session, variables, log) for check in checks))


def check_all(*checks: Callable[[], None]) -> None:
    """Make every check and tell the faults of all of them in one Problem."""
    faults = []
    for check in checks:
        try:
            check()
        except Problem as problem:
            faults.append(problem)
    if faults:
        raise Problem(
            "\nerror: ".join(p.message for p in faults), "\n  try: ".join(p.way_out for p in faults if p.way_out)
        )


def check_credentials(session: Session, variables: Variables, log: Log) -> None:
    """A signed call that every user may make; its answer also says whether the availability domain exists."""
    wanted = variables["availability_domain"]
    with asking("the availability domains of the tenancy", "compartments"):
        found = [domain.name for domain in session.identity.list_availability_domains(session.tenancy).data]
    log(f"credentials: profile {session.profile} of {session.config_file}, region {session.region}")
    if wanted not in found:
        raise Problem(
            f"availability_domain={wanted}: region {session.region} has {', '.join(found)}",
            "set one of these, or another region in the profile",
        )


def check_compartments(session: Session, variables: Variables, log: Log) -> None:
    """The compartments of the instance and of the image exist and are in use."""
    for name in ("compartment_ocid", "image_compartment_ocid"):
        ocid = variables[name]
        if not ocid or ocid == session.tenancy:
            continue
        with asking(f"{name}={ocid}", "compartments", hint="check the OCID and the profile's tenancy"):
            compartment = session.identity.get_compartment(ocid).data
        if compartment.lifecycle_state != "ACTIVE":
            raise Problem(f"{name}={ocid}: {compartment.name} is {compartment.lifecycle_state}", "choose an active one")
        log(f"{name}: {compartment.name}")


def check_subnet(session: Session, variables: Variables, log: Log) -> None:
    """The subnet fits the instance, leads out, and something lets port 22 in."""
    ocid = variables["subnet_ocid"]
    is_private = variables["use_private_ip"]
    subject = f"subnet_ocid={ocid}"
    with asking(subject, "network", hint="check the OCID: it must be in the profile's region"):
        subnet = session.network.get_subnet(ocid).data
        routes = session.network.get_route_table(subnet.route_table_id).data.route_rules
    domain = variables["availability_domain"]
    if subnet.availability_domain not in (None, domain):
        raise Problem(
            f"{subject}: {subnet.display_name} is in {subnet.availability_domain}, the instance in {domain}",
            "choose a regional subnet, or one of the same availability domain",
        )
    if subnet.prohibit_public_ip_on_vnic and not is_private:
        raise Problem(
            f"{subject}: {subnet.display_name} allows no public address",
            "choose a public subnet, or set use_private_ip = true where this machine reaches private addresses",
        )
    ways_out = [rule.network_entity_id for rule in routes if rule.destination == EVERYWHERE]
    if not ways_out:
        raise Problem(
            f"{subject}: the route table of {subnet.display_name} has no rule for {EVERYWHERE}",
            "add one to an internet gateway (public subnet) or a NAT gateway (private subnet)",
        )
    if not is_private and not any(".internetgateway." in way for way in ways_out):
        raise Problem(
            f"{subject}: the way out of {subnet.display_name} is not an internet gateway, so no ssh from here comes in",
            f"add a route rule for {EVERYWHERE} to an internet gateway, or set use_private_ip = true",
        )
    if not any(lets_ssh_in(rule) for rule in ingress_rules(session, subnet, variables["nsg_ocids"], subject)):
        raise Problem(
            f"{subject}: no security list or group of {subnet.display_name} lets TCP port {SSH_PORT} in",
            f"add an ingress rule for TCP port {SSH_PORT} from this machine's address, or name its group in nsg_ocids",
        )
    log(f"subnet: {subnet.display_name}, {'private' if is_private else 'public'} address")


def ingress_rules(session: Session, subnet: Any, nsg_ocids: list[str], subject: str) -> list[Any]:
    """Every rule that decides what may come in: those of the subnet's security lists and of the groups."""
    rules = []
    with asking(f"{subject}: its security lists", "network"):
        for ocid in subnet.security_list_ids:
            rules += session.network.get_security_list(ocid).data.ingress_security_rules
    for ocid in nsg_ocids:
        with asking(f"nsg_ocids={ocid}", "network", hint="check the OCID"):
            rules += list_all(session.network.list_network_security_group_security_rules, ocid, direction="INGRESS")
    return rules


def lets_ssh_in(rule: Any) -> bool:
    """Whether the ingress rule covers TCP port 22; from where is left to the person."""
    if rule.protocol == "all":
        return True
    ports = rule.tcp_options.destination_port_range if rule.tcp_options else None
    return rule.protocol == TCP and (ports is None or ports.min <= SSH_PORT <= ports.max)


def check_shape(session: Session, variables: Variables, log: Log) -> None:
    """The shape is offered in the availability domain, in the wanted size."""
    shape, domain = variables["shape"], variables["availability_domain"]
    with asking(f"the shapes of {domain}", "instances"):
        shapes = list_all(session.compute.list_shapes, variables["compartment_ocid"], availability_domain=domain)
    offered = {found.shape: found for found in shapes}
    if shape not in offered:
        others = [name for name in LIMITS if name in offered]
        raise Problem(
            f"shape={shape}: not offered in {domain}",
            f'shape = "{others[0]}"' if others else "another availability domain or region",
        )
    for name, options in (("ocpus", offered[shape].ocpu_options), ("memory_gb", offered[shape].memory_options)):
        least, most = (options.min, options.max) if name == "ocpus" else (options.min_in_g_bs, options.max_in_g_bs)
        if not least <= variables[name] <= most:
            raise Problem(f"{name}={variables[name]}: {shape} takes from {least:g} to {most:g}", f"set {name} so")
    log(f"shape: {shape}, {variables['ocpus']:g} OCPU, {variables['memory_gb']:g} GB")


def check_quota(session: Session, variables: Variables, log: Log) -> None:
    """As many OCPUs and GB are free as the instance takes.

    Limits that the account may not see, or that OCI calls otherwise by now, are said and passed over: the launch itself
    decides, and costs nothing when refused.
    """
    shape, domain = variables["shape"], variables["availability_domain"]
    for name, limit in LIMITS[shape].items():
        answer = read_quota(session, limit, domain, log)
        if answer is None:
            continue
        if answer.available < variables[name]:
            other = next(candidate for candidate in LIMITS if candidate != shape)
            raise Problem(
                f"{name}={variables[name]}: limit {limit} leaves {answer.available} ({answer.used} in use) in {domain}",
                f'terminate an instance, set {name} lower, set shape = "{other}", or ask for a higher limit',
            )
        log(f"quota: {limit} leaves {answer.available}")


def read_quota(session: Session, limit: str, domain: str, log: Log) -> Any | None:
    """How much of a limit of Compute is `available` and `used`; None, and why, where that cannot be known."""
    try:
        with asking(f"limit {limit}", "quota"):
            answer = session.limits.get_resource_availability(
                "compute", limit, session.tenancy, availability_domain=domain
            ).data
    except Problem as problem:
        log(f"quota: not known ({problem.message}); {problem.way_out}")
        return None
    return answer if answer.available is not None else None


def check_base_image(session: Session, variables: Variables, log: Log) -> None:
    """Oracle offers an Ubuntu 22.04 image for the shape; Packer takes the newest one that its filter matches."""
    with asking("Oracle's images", "instances"):
        images = list_all(
            session.compute.list_images,
            variables["compartment_ocid"],
            operating_system="Canonical Ubuntu",
            operating_system_version="22.04",
            shape=variables["shape"],
            lifecycle_state="AVAILABLE",
            sort_by="TIMECREATED",
            sort_order="DESC",
        )
    names = [image.display_name for image in images if image.display_name.startswith(BASE_IMAGE)]
    if not names:
        raise Problem(
            f"no Ubuntu 22.04 aarch64 image for {variables['shape']} in {session.region}", "try another shape or region"
        )
    log(f"base image: {names[0]}")
