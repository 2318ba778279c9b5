"""Object Storage: a namespace, buckets, objects, uploads in parts with their MD5, and links that really open.

`tenancy.resources["objects"]` is keyed "bucket/object"; an object's bytes are its "content". A part number in
`tenancy.resources["damage"]` is damaged on its way so many times.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import tarfile
import zlib
from datetime import datetime, timezone

import bottle

from tests.cloud.tenancy import COMPARTMENT, USER, Json, Refused, Tenancy, now

NAMESPACE = "testspace"
PUBLIC = ("name", "size", "md5", "timeCreated", "etag")


def md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


def read(tenancy: Tenancy, bucket: str, name: str) -> bytes:
    return find_object(tenancy, bucket, name)["content"]


def find_bucket(tenancy: Tenancy, bucket: str) -> Json:
    if bucket not in tenancy.collection("buckets"):
        raise Refused(404, "BucketNotFound", f"Either the bucket named '{bucket}' does not exist or you may not see it")
    return tenancy.collection("buckets")[bucket]


def find_object(tenancy: Tenancy, bucket: str, name: str) -> Json:
    find_bucket(tenancy, bucket)
    if f"{bucket}/{name}" not in tenancy.collection("objects"):
        raise Refused(404, "ObjectNotFound", f"The object '{name}' was not found in the bucket '{bucket}'")
    return tenancy.collection("objects")[f"{bucket}/{name}"]


def put_bucket(tenancy: Tenancy, name: str, **details: object) -> Json:
    tenancy.collection("buckets")[name] = {
        **{name: {} for name in ("metadata", "freeformTags", "definedTags")},
        "compartmentId": COMPARTMENT,
        "publicAccessType": "ObjectRead",
        "name": name,
        "namespace": NAMESPACE,
        "createdBy": USER,
        "timeCreated": now(),
        "etag": tenancy.new_ocid("bucket"),
        **details,
    }
    return tenancy.collection("buckets")[name]


def put_object(tenancy: Tenancy, bucket: str, name: str, content: bytes, **details: object) -> None:
    tenancy.collection("objects")[f"{bucket}/{name}"] = {
        "bucket": bucket,
        "name": name,
        "size": len(content),
        "md5": md5(content),
        "etag": tenancy.new_ocid("object"),
        "timeCreated": now(),
        "metadata": {},
        "content": content,
        **details,
    }


def is_oci_file(content: bytes) -> bool:
    """As far as the importer looks at once: a gzipped tar that begins with its metadata."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            return archive.next().name == "image_metadata.json"
    except (tarfile.TarError, OSError, EOFError, zlib.error, AttributeError):
        return False


def add(tenancy: Tenancy) -> None:
    count = itertools.count(1)
    for name in ("buckets", "objects", "uploads", "links", "damage"):
        tenancy.collection(name)

    def create_bucket() -> Json:
        wanted = bottle.request.json
        if wanted["name"] in tenancy.collection("buckets"):
            raise Refused(409, "BucketAlreadyExists", f"Either the bucket '{wanted['name']}' exists or you may not")
        put_bucket(tenancy, **wanted)
        return show_bucket(wanted["name"])

    def show_bucket(bucket: str) -> Json:
        bottle.response.set_header("etag", find_bucket(tenancy, bucket)["etag"])
        return find_bucket(tenancy, bucket)

    def list_objects(bucket: str) -> Json:
        find_bucket(tenancy, bucket)
        query = bottle.request.query
        names = sorted(one["name"] for one in tenancy.collection("objects").values() if one["bucket"] == bucket)
        names = [name for name in names if name.startswith(query.get("prefix", "")) and name >= query.get("start", "")]
        size = min(int(query.get("limit", tenancy.page_size)), tenancy.page_size)
        shown, rest = [find_object(tenancy, bucket, name) for name in names[:size]], names[size:]
        objects = [{key: one[key] for key in PUBLIC} for one in shown]
        return {"objects": objects, "prefixes": [], "nextStartWith": rest[0] if rest else None}

    def get_object(bucket: str, name: str) -> bytes:
        one = find_object(tenancy, bucket, name)
        bottle.response.set_header("ETag", one["etag"])
        for key, value in one["metadata"].items():
            bottle.response.set_header(key, value)
        return one["content"]

    def check_match(bucket: str, name: str) -> None:
        """The object is the one that the caller saw, where it says which."""
        wanted = bottle.request.get_header("if-match")
        there = tenancy.collection("objects").get(f"{bucket}/{name}", {}).get("etag")
        if wanted and wanted != there:
            raise Refused(412, "IfMatchFailed", f"The object '{name}' is not {wanted}")

    def delete_object(bucket: str, name: str) -> None:
        find_object(tenancy, bucket, name)
        check_match(bucket, name)
        del tenancy.collection("objects")[f"{bucket}/{name}"]
        bottle.response.status = 204

    # Uploads in parts

    def find_upload(bucket: str, name: str) -> Json:
        upload = tenancy.collection("uploads").get(bottle.request.query.get("uploadId"))
        if upload is None or (upload["bucket"], upload["object"]) != (bucket, name):
            raise Refused(404, "NoSuchUpload", f"The upload of '{name}' was not found")
        return upload

    def create_upload(bucket: str) -> Json:
        find_bucket(tenancy, bucket)
        wanted = bottle.request.json
        check_match(bucket, wanted["object"])
        upload = {
            "namespace": NAMESPACE,
            "bucket": bucket,
            "object": wanted["object"],
            "uploadId": f"upload-{next(count)}",
            "timeCreated": now(),
        }
        kept = {**upload, "metadata": wanted.get("metadata") or {}, "parts": {}}
        tenancy.collection("uploads")[upload["uploadId"]] = kept
        return upload

    def list_uploads(bucket: str) -> list[Json]:
        find_bucket(tenancy, bucket)
        found = [upload for upload in tenancy.collection("uploads").values() if upload["bucket"] == bucket]
        shown = ("namespace", "bucket", "object", "uploadId", "timeCreated")
        return [{key: upload[key] for key in shown} for upload in found]

    def upload_part(bucket: str, name: str) -> None:
        upload, number = find_upload(bucket, name), int(bottle.request.query["uploadPartNum"])
        check_match(bucket, name)
        content = bottle.request.body.read()
        damage = tenancy.collection("damage")
        if damage.get(number, 0) > 0:
            damage[number] -= 1
            content = bytes([content[0] ^ 1]) + content[1:]
        promised = bottle.request.get_header("Content-MD5")
        if promised and promised != md5(content):
            raise Refused(400, "UnmatchedContentMD5", f"The computed MD5 ({md5(content)}) does not match ({promised})")
        etag = f"part-{next(count)}"
        upload["parts"][number] = {"etag": etag, "md5": md5(content), "size": len(content), "content": content}
        bottle.response.set_header("ETag", etag)
        bottle.response.set_header("opc-content-md5", md5(content))

    def list_parts(bucket: str, name: str) -> list[Json]:
        parts = find_upload(bucket, name)["parts"]
        return [
            {"partNumber": number, **{key: parts[number][key] for key in ("etag", "md5", "size")}}
            for number in sorted(parts)
        ]

    def commit(bucket: str, name: str) -> None:
        upload, wanted = find_upload(bucket, name), bottle.request.json
        parts, chosen = upload["parts"], wanted["partsToCommit"]
        check_match(bucket, name)
        for part in chosen:
            if parts.get(part["partNum"], {}).get("etag") != part["etag"]:
                raise Refused(400, "InvalidUploadPart", f"Part {part['partNum']} is not there, or is another")
        named = {part["partNum"] for part in chosen} | set(wanted.get("partsToExclude") or [])
        if set(parts) - named:
            raise Refused(400, "InvalidUploadPart", f"Neither committed nor excluded: {sorted(set(parts) - named)}")
        numbers = sorted(part["partNum"] for part in chosen)
        content = b"".join(parts[number]["content"] for number in numbers)
        put_object(tenancy, bucket, name, content, metadata=upload["metadata"])
        del tenancy.collection("uploads")[upload["uploadId"]]

    def abort(bucket: str, name: str) -> None:
        del tenancy.collection("uploads")[find_upload(bucket, name)["uploadId"]]
        bottle.response.status = 204

    # Links that need no credentials

    def create_link(bucket: str) -> Json:
        wanted = bottle.request.json
        find_object(tenancy, bucket, wanted["objectName"])
        token = f"token{next(count)}"
        path = f"/p/{token}/n/{NAMESPACE}/b/{bucket}/o/{wanted['objectName']}"
        link = {**wanted, "id": token, "timeCreated": now(), "accessUri": path, "fullPath": tenancy.url + path}
        tenancy.collection("links")[token] = {**link, "bucket": bucket}
        return link

    def open_link(token: str, bucket: str, name: str) -> bytes:
        link = tenancy.collection("links").get(token)
        if link is None or (link["bucket"], link["objectName"], link["accessType"]) != (bucket, name, "ObjectRead"):
            raise Refused(404, "NotAuthenticated", "PAR does not exist")
        if datetime.fromisoformat(link["timeExpires"].replace("Z", "+00:00")) < datetime.now(timezone.utc):
            raise Refused(404, "NotAuthenticated", "PAR has expired")
        return get_object(bucket, name)

    tenancy.route("GET", "/n", lambda: NAMESPACE)
    tenancy.route("POST", f"/n/{NAMESPACE}/b", create_bucket)
    place = f"/n/{NAMESPACE}/b/<bucket>"
    tenancy.route("GET", place, show_bucket)
    tenancy.route("GET", f"{place}/o", list_objects)
    tenancy.route("GET", f"{place}/o/<name>", get_object)
    tenancy.route("DELETE", f"{place}/o/<name>", delete_object)
    tenancy.route("POST", f"{place}/u", create_upload)
    tenancy.route("GET", f"{place}/u", list_uploads)
    tenancy.route("PUT", f"{place}/u/<name>", upload_part)
    tenancy.route("GET", f"{place}/u/<name>", list_parts)
    tenancy.route("POST", f"{place}/u/<name>", commit)
    tenancy.route("DELETE", f"{place}/u/<name>", abort)
    tenancy.route("POST", f"{place}/p", create_link)
    tenancy.route("GET", f"/p/<token>/n/{NAMESPACE}/b/<bucket>/o/<name>", open_link)
