"""Every wrong choice is refused before anything is made, with a sentence that says what to do."""

from __future__ import annotations

from typing import Any

import pytest

from service.config import SETTINGS
from tests.cloud.services.compute import IMAGE
from tests.stack.combinations import SSH
from tests.stack.deployment import KEY, STACK, Deployment, Refused

# Values that no variable may have, one of each at a time, and words of the sentence.
WRONG: dict[str, list[tuple[Any, str]]] = {
    "region": [("frankfurt", "written like eu-frankfurt-1")],
    "compartment_ocid": [("ocid1.vcn.x", "ocid1.compartment.")],
    "image_source": [("file", "ocid or link")],
    "image_ocid": [("ocid1.vcn.oc1..x", "ocid1.image.")],
    "image_url": [("http://x/y.oci", "begin with https://"), ("https://x/y.vmdk", "end in .oci or .qcow2")],
    "name": [("Big", "lower-case"), ("a", "2 to 24"), ("x" * 25, "2 to 24")],
    "shape": [("VM.Standard.E5.Flex", "flexible Arm shape"), ("BM.Standard.A1.160", "flexible Arm shape")],
    "ocpus": [(0, "1 to 80"), (81, "1 to 80"), (1.5, "whole number")],
    "memory_gb": [(1, "2 to 946"), (947, "2 to 946")],
    "pool_size": [(0, "1 to 50"), (51, "1 to 50")],
    "boot_volume_gb": [(49, "50 to 32768"), (32769, "50 to 32768")],
    "boot_volume_vpus_per_gb": [(5, "10, 20, 30"), (130, "10, 20, 30")],
    "fault_domains": [("all", "best-effort or strict")],
    "api_key": [("short", "16 to 200"), ("with a space in it", "without spaces")],
    "system_prompt": [("x" * 4097, "4096 characters"), ("bell \a", "control characters"), ("nel \x85", "control")],
    "max_streams": [("0", "1 to 64"), ("65", "1 to 64"), ("many", "auto")],
    "max_tokens": [(0, "1 to 1048576")],
    "max_queue": [(-1, "0 to 512"), (513, "0 to 512")],
    "max_wait_s": [(0, "1 to 280"), (281, "1 to 280")],
    "request_timeout_s": [(0, "1 to 280"), (281, "1 to 280")],
    "vcn_cidr": [("8.8.0.0/16", "private"), ("10.0.0.0/24", "/16 to /23"), ("10.0.0.0", "like 10.0.0.0/16")],
    "vcn_ocid": [("x", "ocid1.vcn.")],
    "lb_subnet_ocid": [("x", "ocid1.subnet.")],
    "node_subnet_ocid": [("x", "ocid1.subnet.")],
    "client_cidrs": [([], "1 to 20"), (["everybody"], "like 203.0.113.0/24")],
    "ssh_access": [("open", "off, range or bastion")],
    "ssh_public_key": [("-----BEGIN PRIVATE KEY-----", "OpenSSH public key")],
    "ssh_cidr": [("0.0.0.0/0", "whole internet"), ("home", "203.0.113.7/32")],
    "https": [("yes", "self-signed, own or off")],
    "certificate_ocid": [("x", "ocid1.certificate.")],
    "host_name": [("localhost", "full DNS name"), ("LLM.example.com", "lower case")],
    "lb_min_mbps": [(9, "10 to 8000")],
    "lb_max_mbps": [(8001, "10 to 8000")],
    "waf_requests_per_minute": [(-1, "0 to 100000")],
    "autoscaling": [("on", "off, schedule, waiting, query or cpu")],
    "min_pool_size": [(0, "1 to 50")],
    "max_pool_size": [(51, "1 to 50")],
    "busy_cron": [("0 7 * * *", "seven fields")],
    "quiet_cron": [("30 0 19 ? * MON-FRI *", "first of them 0")],
    "scale_out_wait_ms": [(99, "100 to 280000")],
    "scale_out_cpu_percent": [(29, "30 to 99"), (100, "30 to 99")],
    "scale_namespace": [("Big Words", "lower-case")],
    "alarm_email": [("ops", "one e-mail address")],
}
FREE = {"show_advanced", "scale_out_query", "scale_in_query"}  # and booleans, which Terraform itself checks


@pytest.mark.parametrize("number", range(3))
def test_wrong_values_are_refused_all_at_once(deployment: Deployment, number: int) -> None:
    """Terraform tells every variable's fault in one run, so a run takes one wrong value of each."""
    chosen = {name: cases[number] for name, cases in WRONG.items() if number < len(cases)}
    with pytest.raises(Refused) as refused:
        deployment.plan(**{name: value for name, (value, _) in chosen.items()})
    missing = {name: words for name, (_, words) in chosen.items() if words not in refused.value.text}
    assert missing == {}
    assert refused.value.text.count("Invalid value for variable") == len(chosen)
    assert all(call.startswith("GET ") for call in deployment.tenancy.calls)


def test_every_variable_that_can_be_wrong_is_tried() -> None:
    from scripts.stack.form import read_blocks

    found = read_blocks(STACK, "variable")
    checked = {name for name, body in found.items() if body["type"] != "bool"}
    assert set(WRONG) == checked - FREE
    assert all(found[name].get("validation") for name in WRONG)
    assert all(body.get("description") and body.get("type") for body in found.values())


FOREIGN = IMAGE.replace("eu-frankfurt-1", "iad")
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("no image", {"image_ocid": ""}, "No image is chosen. Bake one with `make image-oci`"),
    ("no link", {"image_source": "link", "image_ocid": ""}, "Image link is empty. Upload the .oci file"),
    (
        "image of another region",
        {"image_ocid": FOREIGN},
        "The image is in region us-ashburn-1 and this deployment in eu-",
    ),
    ("no such shape here", {"shape": "VM.Standard.A4.Flex"}, "VM.Standard.A4.Flex is not offered in eu-frankfurt-1"),
    ("own certificate without one", {"https": "own"}, "needs its OCID"),
    ("half a network", {"use_existing_network": True, "vcn_ocid": "ocid1.vcn.oc1..x"}, "needs all three"),
    ("SSH for nobody", {"ssh_access": "range"}, "Fill in both, or set SSH access to off"),
    ("a bastion for nobody", {**SSH, "ssh_access": "bastion", "ssh_public_key": ""}, "Fill in both"),
    ("bandwidth upside down", {"lb_min_mbps": 200}, "minimum of 200 Mbit/s is above its maximum of 100"),
    (
        "sizes upside down",
        {"autoscaling": "cpu", "min_pool_size": 5},
        "minimum pool size of 5 is above the maximum of 4",
    ),
    ("a query without words", {"autoscaling": "query"}, "needs its namespace, the query that adds a node"),
]


@pytest.mark.parametrize(("chosen", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_choices_that_do_not_fit_are_refused(deployment: Deployment, chosen: dict, words: str) -> None:
    with pytest.raises(Refused) as refused:
        deployment.plan(**chosen)
    assert words in refused.value.text


def test_an_image_that_cannot_boot_is_refused(deployment: Deployment) -> None:
    image = deployment.tenancy.resources["images"][IMAGE]
    image["launchOptions"]["firmware"], image["lifecycleState"] = "BIOS", "IMPORTING"
    deployment.tenancy.resources["imageShapes"][IMAGE] = {"VM.Standard.A1.Flex": {}}
    with pytest.raises(Refused) as refused:
        deployment.plan()
    for words in ("not set to boot with UEFI", "is IMPORTING, not AVAILABLE", "does not allow VM.Standard.A2.Flex"):
        assert words in refused.value.text


def test_settings_too_long_for_metadata_are_refused(deployment: Deployment) -> None:
    """A `<` takes six bytes on its way through JSON."""
    with pytest.raises(Refused, match="Shorten the system prompt"):
        deployment.plan(system_prompt="<" * 4096, api_key=KEY)


@pytest.mark.parametrize("name", ["max_tokens", "max_queue", "max_wait_s", "request_timeout_s"])
def test_ranges_are_the_services(name: str) -> None:
    import yaml

    (setting,) = (one for one in SETTINGS if one.field == name)
    field = yaml.safe_load((STACK / "schema.yaml").read_text())["variables"][name]
    assert (field["minimum"], field["maximum"], str(field["default"])) == (setting.low, setting.high, setting.default)
    assert f"({setting.name})" in (STACK / "variables.tf").read_text()
