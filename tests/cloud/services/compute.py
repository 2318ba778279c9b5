"""Compute: shapes per availability domain, images with import and shape list, capability schemas, instances."""

from __future__ import annotations

import bottle

from tests.cloud import contract
from tests.cloud.services import object_storage, work_requests
from tests.cloud.services.identity import DOMAINS
from tests.cloud.tenancy import COMPARTMENT, REGION, Json, Kind, Refused, Tenancy, Work

VERSION = "20160918"
A1, A2 = "VM.Standard.A1.Flex", "VM.Standard.A2.Flex"
IMAGE = "ocid1.image.oc1.eu-frankfurt-1.llamakiln"  # in a healthy tenancy: baked, UEFI, on A1 and A2
SCHEMA_NAME = "global-2026-11"


def fill_image(tenancy: Tenancy, image: Json) -> Json:
    """One is made of an instance, or imported.

    An import of an .oci file brings its firmware and shapes; a qcow2 is taken for BIOS on x86 shapes.

    One from a bucket reads the object: shapes must be registered then, and what is no .oci file ends as a work request
    with an error and an image that is gone.
    """
    source = image.pop("imageSourceDetails", None) or {}
    if "instanceId" in image:
        return fill_from_instance(tenancy, image)
    is_qcow2 = source.get("sourceImageType") == "QCOW2"
    fault = ""
    if source.get("sourceType") == "objectStorageTuple":
        content = object_storage.read(tenancy, source["bucketName"], source["objectName"])
        fault = "" if object_storage.is_oci_file(content) else "The image file is not a valid OCI image archive"
    tenancy.settle(image, "IMPORTING" if source else "PROVISIONING", "DELETED" if fault else "AVAILABLE")
    work_requests.start(tenancy, VERSION, "CreateImage", "CREATED", "image", image, fault)
    has_shapes = source.get("sourceType") != "objectStorageTuple" and not is_qcow2
    tenancy.collection("imageShapes")[image["id"]] = {A1: {}, A2: {}} if has_shapes else {}
    firmware = "BIOS" if is_qcow2 else "UEFI_64"
    return {
        "launchOptions": options(firmware),
        "operatingSystem": "Canonical Ubuntu",
        "operatingSystemVersion": "22.04",
    }


def fill_from_instance(tenancy: Tenancy, image: Json) -> Json:
    """Allowed on the shape of its instance and on no other."""
    instance = tenancy.find("instances", image.pop("instanceId"))
    work_requests.start(tenancy, VERSION, "CreateImage", "CREATED", "image", image)
    base = tenancy.find("images", instance["imageId"])
    tenancy.collection("imageShapes")[image["id"]] = {instance["shape"]: {}}
    return {
        **{name: base[name] for name in ("launchOptions", "operatingSystem", "operatingSystemVersion")},
        "baseImageId": base["id"],
    }


def fill_instance(tenancy: Tenancy, instance: Json) -> Json:
    """What a launch leaves to the cloud; the pool says more of its own."""
    image = instance["sourceDetails"]["imageId"]
    tenancy.find("images", image)
    vnic = instance.pop("createVnicDetails", {})
    subnet = instance.pop("subnetId", None)
    return {
        "region": REGION,
        "imageId": image,
        "faultDomain": instance.get("faultDomain") or "FAULT-DOMAIN-1",
        "launchMode": "PARAVIRTUALIZED",
        "_subnetId": vnic.get("subnetId") or subnet,
        "_nsgIds": vnic.get("nsgIds") or [],
        "_privateIp": instance.get("_privateIp", ""),
        "_looksUntilReady": tenancy.looks,  # of the load balancer, once it runs
    }


def options(firmware: str) -> Json:
    kinds = dict.fromkeys(("bootVolumeType", "networkType", "remoteDataVolumeType"), "PARAVIRTUALIZED")
    return {
        "firmware": firmware,
        "isPvEncryptionInTransitEnabled": True,
        "isConsistentVolumeNamingEnabled": True,
        **kinds,
    }


def set_firmware(tenancy: Tenancy, schema: Json) -> Json:
    wanted = schema["schemaData"].get("Compute.Firmware", {}).get("defaultValue")
    tenancy.find("images", schema["imageId"])["launchOptions"]["firmware"] = wanted
    return {"computeGlobalImageCapabilitySchemaId": "ocid1.computeglobalimgcapschema.oc1..1"}


def flexible(shape: str) -> Json:
    return {
        "shape": shape,
        "isFlexible": True,
        "ocpuOptions": {"min": 1.0, "max": 76.0},
        "memoryOptions": {"minInGBs": 1.0, "maxInGBs": 472.0},
    }


KINDS = (
    Kind(
        "images",
        VERSION,
        "image",
        making="PROVISIONING",
        ready="AVAILABLE",
        gone="DELETED",
        defaults={
            "createImageAllowed": True,
            "launchMode": "PARAVIRTUALIZED",
            "sizeInMBs": 6144,
            "billableSizeInGBs": 2,
        },
        fill=fill_image,
    ),
    Kind("computeImageCapabilitySchemas", VERSION, "computeimgcapschema", fill=set_firmware),
    Kind(
        "instances",
        VERSION,
        "instance",
        making="PROVISIONING",
        ready="RUNNING",
        ending="TERMINATING",
        gone="TERMINATED",
        work=Work("instance", {"CREATED": "LaunchInstance", "DELETED": "TerminateInstance"}),
        fill=fill_instance,
    ),
)


IMAGES, _SCHEMAS, INSTANCES = KINDS


def put_image(tenancy: Tenancy, ocid: str, **changes: object) -> Json:
    """One that is there already, on A1 and A2."""
    image = {
        **contract.collections(IMAGES.shown_by),
        **IMAGES.defaults,
        "id": ocid,
        "displayName": ocid.rsplit(".", 1)[-1],
        "compartmentId": COMPARTMENT,
        "lifecycleState": "AVAILABLE",
        "operatingSystem": "Canonical Ubuntu",
        "operatingSystemVersion": "22.04",
        "launchOptions": options("UEFI_64"),
        "timeCreated": "2026-11-01T00:00:00Z",
        **changes,
    }
    tenancy.collection("imageShapes")[ocid] = {A1: {}, A2: {}}
    return tenancy.collection("images").setdefault(ocid, image)


def put_instance(tenancy: Tenancy, ocid: str, image: str, state: str = "RUNNING", **changes: object) -> Json:
    """One that is there already, of no pool."""
    source = {"sourceType": "image", "imageId": image}
    wanted = {"compartmentId": COMPARTMENT, "availabilityDomain": DOMAINS[0], "shape": A2, "sourceDetails": source}
    instance = tenancy.put(INSTANCES, {**wanted, **changes}, ocid)
    tenancy.settle(instance, "", state)
    return instance


def add(tenancy: Tenancy) -> None:
    for kind in KINDS:
        tenancy.serve(kind)
    product = {"product": "llamakiln", "model": "demo"}
    put_image(tenancy, IMAGE, displayName="llamakiln-demo-0.1.0", freeformTags=product)
    # Which shapes each domain has; a test removes some.
    tenancy.resources["shapes"] = {
        domain: {name: flexible(name) for name in (A1, A2, "VM.Standard.E5.Flex")}
        for domain in tenancy.resources["availabilityDomains"]
    }

    def list_shapes() -> list[Json]:
        wanted = bottle.request.query.get("availabilityDomain")
        found = [shapes for domain, shapes in tenancy.resources["shapes"].items() if wanted in (None, domain)]
        return [shape for shapes in found for shape in shapes.values()]

    def list_images() -> list[Json]:
        shape, shapes = bottle.request.query.get("shape"), tenancy.resources["imageShapes"]
        found = [tenancy.look(image) for image in tenancy.resources["images"].values()]
        return [image for image in found if shape is None or shape in shapes[image["id"]]]

    def list_image_shapes(ocid: str) -> list[Json]:
        tenancy.find("images", ocid)
        return [{"imageId": ocid, "shape": name} for name in sorted(tenancy.resources["imageShapes"][ocid])]

    def add_image_shape(ocid: str, shape: str) -> Json:
        tenancy.find("images", ocid)
        tenancy.resources["imageShapes"][ocid][shape] = {}
        return {"imageId": ocid, "shape": shape}

    def get_image_shape(ocid: str, shape: str) -> Json:
        tenancy.find("images", ocid)
        if shape not in tenancy.resources["imageShapes"][ocid]:
            raise Refused(404, "NotAuthorizedOrNotFound", f"The image {ocid} is not allowed on {shape}")
        return {"imageId": ocid, "shape": shape}

    def remove_image_shape(ocid: str, shape: str) -> None:
        tenancy.resources["imageShapes"][ocid].pop(shape, None)
        bottle.response.status = 204

    path = f"/{VERSION}/images/<ocid>/shapes"
    tenancy.route("GET", f"/{VERSION}/shapes", list_shapes)
    tenancy.route("GET", f"/{VERSION}/images", list_images)
    tenancy.route("GET", path, list_image_shapes)
    tenancy.route("PUT", f"{path}/<shape>", add_image_shape)
    tenancy.route("GET", f"{path}/<shape>", get_image_shape)
    tenancy.route("DELETE", f"{path}/<shape>", remove_image_shape)
    schema = {
        "id": "ocid1.computeglobalimgcapschema.oc1..1",
        "name": "OCI.ComputeGlobalImageCapabilitySchema",
        "displayName": "OCI.ComputeGlobalImageCapabilitySchema",
        "currentVersionName": SCHEMA_NAME,
        "timeCreated": "2026-11-01T00:00:00Z",
        "freeformTags": {},
        "definedTags": {},
    }
    tenancy.route("GET", f"/{VERSION}/computeGlobalImageCapabilitySchemas", lambda: [schema])
