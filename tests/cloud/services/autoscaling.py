"""Autoscaling: one configuration per pool, with rules that name their thresholds in range."""

from tests.cloud.tenancy import Json, Kind, Refused, Tenancy


def check(tenancy: Tenancy, configuration: Json) -> Json:
    pool = configuration["resource"]["id"]
    tenancy.find("instancePools", pool)
    if any(other["resource"]["id"] == pool for other in tenancy.live("autoScalingConfigurations")):
        raise Refused(409, "Conflict", f"{pool} has an autoscaling configuration already")
    if configuration.get("coolDownInSeconds", 300) < 300:
        raise Refused(400, "InvalidParameter", "coolDownInSeconds must be at least 300")
    for policy in configuration["policies"]:
        policy["id"], policy["timeCreated"] = tenancy.new_ocid("policy"), configuration["timeCreated"]
        for rule in policy.get("rules") or []:
            rule["id"] = tenancy.new_ocid("condition")
    return {}


KINDS = (Kind("autoScalingConfigurations", "20181001", "autoscalingconfiguration", fill=check),)


def add(tenancy: Tenancy) -> None:
    for kind in KINDS:
        tenancy.serve(kind)
