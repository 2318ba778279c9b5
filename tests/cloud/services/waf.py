"""Web Application Firewall: policies whose rules name known actions, and firewalls before a load balancer."""

from tests.cloud.tenancy import Json, Kind, Refused, Tenancy

VERSION = "20210930"
LIFE = {"making": "CREATING", "ready": "ACTIVE", "ending": "DELETING", "gone": "DELETED"}


def check_policy(tenancy: Tenancy, policy: Json) -> Json:
    actions = {action["name"] for action in policy.get("actions") or []}
    for rule in (policy.get("requestRateLimiting") or {}).get("rules") or []:
        if rule["actionName"] not in actions:
            raise Refused(
                400, "InvalidParameter", f"rule {rule['name']} names no action of the policy: {rule['actionName']}"
            )
    return {"timeUpdated": policy["timeCreated"], "systemTags": {}}


def check_firewall(tenancy: Tenancy, firewall: Json) -> Json:
    tenancy.find("loadBalancers", firewall["loadBalancerId"])
    tenancy.find("webAppFirewallPolicies", firewall["webAppFirewallPolicyId"])
    return {"timeUpdated": firewall["timeCreated"], "systemTags": {}}


KINDS = (
    Kind(
        "webAppFirewallPolicies",
        VERSION,
        "webappfirewallpolicy",
        **LIFE,
        items="items",
        fill=check_policy,
        used_by=(("webAppFirewalls", "webAppFirewallPolicyId"),),
    ),
    Kind("webAppFirewalls", VERSION, "webappfirewall", **LIFE, items="items", fill=check_firewall),
)


def add(tenancy: Tenancy) -> None:
    for kind in KINDS:
        tenancy.serve(kind)
