"""Logging: log groups, and service logs in them. Every change answers a work request, and nothing else."""

from __future__ import annotations

import bottle

from tests.cloud.tenancy import TENANCY, Json, Kind, Refused, Tenancy, Work

VERSION = "20200531"
STATUSES = {"made": 202, "changed": 202, "ended": 202}


def work(entity: str, word: str) -> Work:
    return Work(entity, {f"{verb}D": f"{verb}_{word}" for verb in ("CREATE", "UPDATE", "DELETE")})


def fill_group(tenancy: Tenancy, group: Json) -> Json:
    return {"timeLastModified": group["timeCreated"]}


def fill_log(tenancy: Tenancy, log: Json) -> Json:
    group = bottle.request.url_args["group"]
    tenancy.find("logGroups", group)
    source = log["configuration"]["source"]
    if source["service"] == "flowlogs" and ".subnet." not in source["resource"]:
        raise Refused(400, "InvalidParameter", f"flow logs are of a subnet, not of {source['resource']}")
    return {
        "logGroupId": group,
        "tenancyId": TENANCY,
        "compartmentId": log["configuration"].get("compartmentId") or tenancy.find("logGroups", group)["compartmentId"],
        "timeLastModified": log["timeCreated"],
    }


KINDS = (
    Kind(
        "logGroups",
        VERSION,
        "loggroup",
        ready="ACTIVE",
        **STATUSES,
        work=work("loggroup", "LOG_GROUP"),
        fill=fill_group,
        used_by=(("logs", "logGroupId"),),
    ),
    Kind(
        "logs",
        VERSION,
        "log",
        making="CREATING",
        ready="ACTIVE",
        **STATUSES,
        work=work("log", "LOG"),
        fill=fill_log,
        under="logGroups/<group>/",
        defaults={"isEnabled": True, "retentionDuration": 30},
    ),
)


def add(tenancy: Tenancy) -> None:
    for kind in KINDS:
        tenancy.serve(kind)
