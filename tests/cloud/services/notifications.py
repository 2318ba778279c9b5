"""Notifications: topics, whose names are unique in the tenancy, and subscriptions, which wait to be confirmed."""

from tests.cloud.tenancy import Json, Kind, Refused, Tenancy, is_gone

VERSION = "20181201"


def fill_topic(tenancy: Tenancy, topic: Json) -> Json:
    if any(other["name"] == topic["name"] and not is_gone(other) for other in tenancy.collection("topics").values()):
        raise Refused(409, "Conflict", f"a topic named {topic['name']} exists in the tenancy")
    return {
        "topicId": topic["id"],
        "shortTopicId": topic["id"][-4:],
        "apiEndpoint": "https://cell1.notification.example",
        "etag": "1",
    }


def fill_subscription(tenancy: Tenancy, subscription: Json) -> Json:
    tenancy.find("topics", subscription["topicId"])
    return {"lifecycleState": "PENDING", "createdTime": 1793491200000, "etag": "1"}


KINDS = (
    Kind("topics", VERSION, "onstopic", ready="ACTIVE", fill=fill_topic, ours=("id",)),
    Kind("subscriptions", VERSION, "onssubscription", fill=fill_subscription, ours=("timeCreated",), can_update=False),
)


def add(tenancy: Tenancy) -> None:
    for kind in KINDS:
        tenancy.serve(kind)

    def update_subscription(ocid: str) -> Json:
        """Answers only what can be changed."""
        item = tenancy.update(KINDS[1], ocid)
        return {name: item.get(name) for name in ("freeformTags", "definedTags", "deliveryPolicy")}

    tenancy.route("PUT", f"{KINDS[1].base}/<ocid>", update_subscription)
