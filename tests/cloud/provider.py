"""A stand-in for Terraform's OCI provider: the real one's schema, served to a real Terraform, over Oracle's own SDK.

terraform-provider-oci cannot be had as a Go module, so this speaks Terraform's plugin protocol 5 in its place. It
takes attribute names and types from provider_schema.json, which Terraform printed from provider 8.28.0, builds Oracle's
SDK models from them (an attribute that the API does not have is an error), and calls the loopback tenancy.

`with Provider(cloud, proto) as provider:` serves it; `provider.reattach` is what Terraform wants in
TF_REATTACH_PROVIDERS.
Knows the protocol and how a plan is made. Knows no kind of resource: those are in provider_table.py. Does not know what
the real provider validates beyond its schema.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import msgpack

from tests.cloud import provider_table as table

SCHEMA = json.loads((Path(__file__).parent / "provider_schema.json").read_text())
NESTING = {"single": 1, "list": 2, "set": 3, "map": 4}
UNKNOWN = msgpack.ExtType(0, b"\0")
Values = dict[str, Any]


def load_protocol(proto: Path) -> tuple[Any, Any]:
    """The messages and the service of tfplugin5.proto, compiled as it is imported."""
    sys.path.insert(0, str(proto.parent))
    try:
        return grpc.protos_and_services(proto.name)
    finally:
        sys.path.remove(str(proto.parent))


class Provider:
    def __init__(self, cloud: table.Cloud, proto: Path, credentials: grpc.ServerCredentials | None = None) -> None:
        self.pb, services = load_protocol(proto)
        self.cloud = cloud
        self._server = grpc.server(ThreadPoolExecutor(max_workers=16))
        services.add_ProviderServicer_to_server(self, self._server)
        at = "127.0.0.1:0"
        port = self._server.add_secure_port(at, credentials) if credentials else self._server.add_insecure_port(at)
        self.address = f"127.0.0.1:{port}"
        # go-plugin's own service beside the protocol's; its messages are empty
        self._done = threading.Event()
        shut_down = {"Shutdown": grpc.unary_unary_rpc_method_handler(self._shut_down)}
        controller = grpc.method_handlers_generic_handler("plugin.GRPCController", shut_down)
        self._server.add_generic_rpc_handlers((controller,))

    def __enter__(self) -> Provider:
        self._server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.stop(grace=None).wait()

    def wait(self) -> None:
        """Until Terraform says that it is done."""
        self._done.wait()

    def _shut_down(self, _request: bytes, _context: Any) -> bytes:
        self._done.set()
        return b""

    @property
    def reattach(self) -> str:
        where = {"Network": "tcp", "String": self.address}
        plugin = {"Protocol": "grpc", "ProtocolVersion": 5, "Pid": os.getpid(), "Test": True, "Addr": where}
        return json.dumps({"oracle/oci": plugin})

    # The protocol's calls, by the names that tfplugin5.proto gives them

    def GetSchema(self, _request: Any, _context: Any) -> Any:
        return self.pb.GetProviderSchema.Response(
            provider=self._schema(SCHEMA["provider"]),
            resource_schemas={name: self._schema(one) for name, one in SCHEMA["resource_schemas"].items()},
            data_source_schemas={name: self._schema(one) for name, one in SCHEMA["data_source_schemas"].items()},
        )

    def PrepareProviderConfig(self, request: Any, _context: Any) -> Any:
        return self.pb.PrepareProviderConfig.Response(prepared_config=request.config)

    def Configure(self, _request: Any, _context: Any) -> Any:
        return self.pb.Configure.Response()

    def ValidateResourceTypeConfig(self, _request: Any, _context: Any) -> Any:
        return self.pb.ValidateResourceTypeConfig.Response()

    def ValidateDataSourceConfig(self, _request: Any, _context: Any) -> Any:
        return self.pb.ValidateDataSourceConfig.Response()

    def UpgradeResourceState(self, request: Any, _context: Any) -> Any:
        return self.pb.UpgradeResourceState.Response(upgraded_state=self.pb.DynamicValue(json=request.raw_state.json))

    def ImportResourceState(self, _request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "the stand-in imports nothing")

    def Stop(self, _request: Any, _context: Any) -> Any:
        return self.pb.Stop.Response()

    def ReadResource(self, request: Any, _context: Any) -> Any:
        state = unpack(request.current_state)
        answer = self.pb.ReadResource.Response()
        with self._told(answer):
            block = SCHEMA["resource_schemas"][request.type_name]["block"]
            found = table.RESOURCES[request.type_name].read(self.cloud, state)
            answer.new_state.CopyFrom(self._pack(found and table.refresh(block, state, found)))
        return answer

    def ReadDataSource(self, request: Any, _context: Any) -> Any:
        answer = self.pb.ReadDataSource.Response()
        with self._told(answer):
            block = SCHEMA["data_source_schemas"][request.type_name]["block"]
            answer.state.CopyFrom(
                self._pack(table.read_data(self.cloud, request.type_name, block, unpack(request.config)))
            )
        return answer

    def PlanResourceChange(self, request: Any, _context: Any) -> Any:
        prior, proposed = unpack(request.prior_state), unpack(request.proposed_new_state)
        answer = self.pb.PlanResourceChange.Response(planned_state=request.proposed_new_state, legacy_type_system=True)
        if proposed is None:  # to be destroyed
            return answer
        block = SCHEMA["resource_schemas"][request.type_name]["block"]
        if prior is None:
            answer.planned_state.CopyFrom(self._pack(with_unknowns(block, proposed)))
            return answer
        for name in table.RESOURCES[request.type_name].replace:
            if same(proposed[name]) != same(prior[name]):
                step = self.pb.AttributePath.Step(attribute_name=name)
                answer.requires_replace.append(self.pb.AttributePath(steps=[step]))
        changed = same(proposed) != same(prior)
        missing = never_answered(block, prior, proposed)
        answer.planned_state.CopyFrom(self._pack({**proposed, **missing} if changed or missing else prior))
        return answer

    def ApplyResourceChange(self, request: Any, _context: Any) -> Any:
        prior, planned = unpack(request.prior_state), unpack(request.planned_state)
        resource, block = table.RESOURCES[request.type_name], SCHEMA["resource_schemas"][request.type_name]["block"]
        answer = self.pb.ApplyResourceChange.Response(legacy_type_system=True, new_state=request.prior_state)
        with self._told(answer):
            if planned is None:
                resource.delete(self.cloud, prior)
                answer.new_state.CopyFrom(self._pack(None))
                return answer
            wanted = without_unknowns(planned)
            if prior is None:
                wanted["id"] = resource.create(self.cloud, block, wanted)
            else:
                resource.update(self.cloud, block, prior, wanted)
            found = resource.read(self.cloud, wanted)
            answer.new_state.CopyFrom(self._pack(table.refresh(block, wanted, found)))
        return answer

    # Help

    def _told(self, answer: Any) -> Any:
        return _Told(self.pb, answer)

    def _pack(self, values: Values | None) -> Any:
        return self.pb.DynamicValue(msgpack=msgpack.packb(values))

    def _schema(self, schema: Values) -> Any:
        return self.pb.Schema(version=schema["version"], block=self._block(schema["block"]))

    def _block(self, block: Values) -> Any:
        flags = ("required", "optional", "computed", "sensitive", "deprecated")
        return self.pb.Schema.Block(
            attributes=[
                self.pb.Schema.Attribute(
                    name=name,
                    type=json.dumps(one["type"]).encode(),
                    **{flag: one.get(flag, False) for flag in flags},
                )
                for name, one in block.get("attributes", {}).items()
            ],
            block_types=[
                self.pb.Schema.NestedBlock(
                    type_name=name,
                    block=self._block(one["block"]),
                    nesting=NESTING[one["nesting_mode"]],
                    min_items=one.get("min_items", 0),
                    max_items=one.get("max_items", 0),
                )
                for name, one in block.get("block_types", {}).items()
            ],
        )


class _Told:
    """Tells Terraform of an API's refusal in the words of the real provider, instead of breaking the call."""

    def __init__(self, pb: Any, answer: Any) -> None:
        self.pb, self.answer = pb, answer

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, table.NotDone):
            self.answer.diagnostics.append(self.pb.Diagnostic(severity=1, summary=str(error)))
            return True
        return False


def unpack(value: Any) -> Values | None:
    return msgpack.unpackb(value.msgpack) if value.msgpack else json.loads(value.json)


def same(value: Any) -> str:
    """A form in which two values that mean the same are equal: sets in any order."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{same(one)}" for name, one in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(sorted(same(one) for one in value)) + "]"
    return repr(float(value)) if isinstance(value, int) and not isinstance(value, bool) else repr(value)


def never_answered(block: Values, prior: Values, proposed: Values) -> Values:
    """The computed lists and maps that the API has left out until now: to the real provider they are still unknown."""
    return {
        name: UNKNOWN
        for name, one in block.get("attributes", {}).items()
        if one.get("computed") and table.is_collection(one) and prior[name] is None and proposed[name] is None
    }


def with_unknowns(block: Values, values: Values) -> Values:
    """For a new resource: everything that the API decides is not known yet."""
    made = dict(values)
    for name, attribute in block.get("attributes", {}).items():
        if made[name] is None and attribute.get("computed"):
            made[name] = UNKNOWN
    for name, nested in block.get("block_types", {}).items():
        if isinstance(made[name], list):
            made[name] = [with_unknowns(nested["block"], one) if isinstance(one, dict) else one for one in made[name]]
    return made


def without_unknowns(value: Any) -> Any:
    if isinstance(value, msgpack.ExtType):
        return None
    if isinstance(value, dict):
        return {name: without_unknowns(one) for name, one in value.items()}
    return [without_unknowns(one) for one in value] if isinstance(value, list) else value
