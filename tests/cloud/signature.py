"""Check the signature of a call to Oracle's APIs (HTTP signatures, draft 8). Knows no API, and keeps no key."""

from __future__ import annotations

import base64
import re

import bottle
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa


def is_signed(request: bottle.BaseRequest, key_id: str, key: rsa.RSAPublicKey) -> bool:
    """Whether the Authorization header is this key's signature over the headers it names."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', request.get_header("Authorization", "")))
    if fields.get("keyId") != key_id:
        return False
    # as it came, with its escapes, where the server tells
    told = request.environ.get("REQUEST_URI")
    target = told or request.path + (f"?{request.query_string}" if request.query_string else "")
    values = {"(request-target)": f"{request.method.lower()} {target}"}
    text = "\n".join(f"{name}: {values.get(name) or request.get_header(name)}" for name in fields["headers"].split())
    try:
        key.verify(base64.b64decode(fields["signature"]), text.encode(), padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True
