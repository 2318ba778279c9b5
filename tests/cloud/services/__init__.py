"""The APIs that the loopback tenancy speaks, one file per service: kinds as data, and what is special about each.

A file has `add(tenancy)`, which puts its resources and routes into the tenancy.
"""

from tests.cloud.services import (
    autoscaling,
    bastion,
    compute,
    compute_management,
    identity,
    limits,
    load_balancer,
    logging,
    monitoring,
    network,
    notifications,
    object_storage,
    resource_manager,
    waf,
    work_requests,
)

ALL = (
    identity,
    network,
    compute,
    compute_management,
    load_balancer,
    autoscaling,
    monitoring,
    notifications,
    logging,
    waf,
    bastion,
    object_storage,
    resource_manager,
    limits,
    work_requests,
)
