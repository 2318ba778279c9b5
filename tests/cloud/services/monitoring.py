"""Monitoring: alarms. Their queries must name a metric, an interval, a statistic and a threshold."""

import re

from tests.cloud.tenancy import Json, Kind, Refused, Tenancy

QUERY = re.compile(
    r"\w+\[\d+[mh]\](\{.+\})?\.(mean|max|min|sum|count|rate|percentile\(0\.\d+\))\(?\)? ?(>|<|>=|<=|==) ?\d+"
)


def check(tenancy: Tenancy, alarm: Json) -> Json:
    if not QUERY.fullmatch(alarm["query"]):
        raise Refused(400, "InvalidParameter", f"not a query: {alarm['query']}")
    for topic in alarm["destinations"]:
        tenancy.find("topics", topic)
    return {"timeUpdated": alarm["timeCreated"]}


KINDS = (Kind("alarms", "20180401", "alarm", ready="ACTIVE", gone="DELETED", fill=check),)


def add(tenancy: Tenancy) -> None:
    for kind in KINDS:
        tenancy.serve(kind)
