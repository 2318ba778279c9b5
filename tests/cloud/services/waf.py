"""Web Application Firewall: policies whose rules name known actions, and firewalls before a load balancer."""

from tests.cloud.tenancy import Json, Kind, Refused, Tenancy, Work

VERSION = "20210930"
LIFE = {"making": "CREATING", "ready": "ACTIVE", "ending": "DELETING", "gone": "DELETED"}
STATUSES = {"made": 201, "changed": 202, "ended": 202}


def check_policy(tenancy: Tenancy, policy: Json) -> Json:
    actions = {action["name"] for action in policy["actions"]}
    for rule in (policy.get("requestRateLimiting") or {}).get("rules") or []:
        if rule["actionName"] not in actions:
            raise Refused(
                400, "InvalidParameter", f"rule {rule['name']} names no action of the policy: {rule['actionName']}"
            )
    return {"timeUpdated": policy["timeCreated"]}


def check_firewall(tenancy: Tenancy, firewall: Json) -> Json:
    tenancy.find("loadBalancers", firewall["loadBalancerId"])
    tenancy.find("webAppFirewallPolicies", firewall["webAppFirewallPolicyId"])
    return {"timeUpdated": firewall["timeCreated"]}


def work(entity: str, word: str) -> Work:
    return Work(entity, {f"{verb}D": f"{verb}_{word}" for verb in ("CREATE", "UPDATE", "DELETE")})


KINDS = (
    Kind(
        "webAppFirewallPolicies",
        VERSION,
        "webappfirewallpolicy",
        **LIFE,
        **STATUSES,
        work=work("webAppFirewallPolicy", "WAF_POLICY"),
        fill=check_policy,
        used_by=(("webAppFirewalls", "webAppFirewallPolicyId"),),
    ),
    Kind(
        "webAppFirewalls",
        VERSION,
        "webappfirewall",
        **LIFE,
        **STATUSES,
        work=work("webAppFirewall", "WEB_APP_FIREWALL"),
        fill=check_firewall,
    ),
)


def add(tenancy: Tenancy) -> None:
    for kind in KINDS:
        tenancy.serve(kind)
