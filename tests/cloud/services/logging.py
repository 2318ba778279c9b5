"""Logging: log groups, and service logs in them. Both are made and removed by work requests."""

import bottle

from tests.cloud.tenancy import Json, Kind, Refused, Tenancy

VERSION = "20200531"
WORK = f"{VERSION}/workRequests"
GROUP = Kind("logGroups", VERSION, "loggroup", ready="ACTIVE", used_by=(("logs", "logGroupId"),))
LOG = Kind("logs", VERSION, "log", making="CREATING", ready="ACTIVE")


def add(tenancy: Tenancy) -> None:
    tenancy.serve(GROUP)

    def accept(item: Json, operation: str) -> None:
        touched = [{"identifier": item["id"], "actionType": "CREATED", "entityType": "log", "entityUri": ""}]
        work = tenancy.find(WORK, tenancy.start_work(WORK, operation, resources=touched, compartmentId="c"))
        work["status"] = "SUCCEEDED"
        work["timeStarted"] = work["timeFinished"] = work["timeAccepted"]
        bottle.response.status = 202

    def create_group() -> None:
        accept(tenancy.put(GROUP, bottle.request.json), "CREATE_LOG_GROUP")

    def delete_group(ocid: str) -> None:
        item = tenancy.find("logGroups", ocid)
        tenancy._delete(GROUP, ocid)
        accept(item, "DELETE_LOG_GROUP")

    def create_log(ocid: str) -> None:
        tenancy.find("logGroups", ocid)
        body = {**bottle.request.json, "logGroupId": ocid}
        source = body["configuration"]["source"]
        if source["service"] == "flowlogs" and ".subnet." not in source["resource"]:
            raise Refused(400, "InvalidParameter", f"flow logs are of a subnet, not of {source['resource']}")
        accept(tenancy.put(LOG, body), "CREATE_LOG")

    def delete_log(ocid: str, log: str) -> None:
        item = tenancy.find("logs", log)
        del tenancy.collection("logs")[log]
        accept(item, "DELETE_LOG")

    def update_log(ocid: str, log: str) -> None:
        item = tenancy.find("logs", log)
        item.update({name: value for name, value in bottle.request.json.items() if value is not None})
        accept(item, "UPDATE_LOG")

    logs = f"/{VERSION}/logGroups/<ocid>/logs"
    tenancy.route("POST", f"/{VERSION}/logGroups", create_group)
    tenancy.route("DELETE", f"/{VERSION}/logGroups/<ocid>", delete_group)
    tenancy.route("POST", logs, create_log)
    tenancy.route("GET", f"{logs}/<log>", lambda ocid, log: tenancy.look(tenancy.find("logs", log)))
    tenancy.route("PUT", f"{logs}/<log>", update_log)
    tenancy.route("DELETE", f"{logs}/<log>", delete_log)
    tenancy.route("GET", f"/{VERSION}/workRequests/<ocid>", lambda ocid: tenancy.look(tenancy.find(WORK, ocid)))
