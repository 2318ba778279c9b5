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
    Kind("topics", VERSION, "onstopic", ready="ACTIVE", fill=fill_topic),
    Kind("subscriptions", VERSION, "onssubscription", fill=fill_subscription),
)


def add(tenancy: Tenancy) -> None:
    for kind in KINDS:
        tenancy.serve(kind)
