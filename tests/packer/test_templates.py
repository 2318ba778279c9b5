"""Both Packer directories: well formed, accepted by Packer, clear about wrong values, and the same bake.

PACKER names the Packer to use, else scripts/setup/packer.sh gives one. Where that one has no QEMU builder, the
installed one (Debian's 1.6.6, for instance) is asked about packer/local.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from scripts.cloud.packer import numbers
from scripts.cloud.variables import FILLED_IN, read_declarations, read_hcl
from scripts.files import REPOSITORY

EXAMPLE = REPOSITORY / "packer/oci/example.pkrvars.hcl"


def ask(packer: str, *arguments: str) -> tuple[int, str]:
    """Exit code and all that Packer says, with its line breaks taken out of sentences."""
    environment = {**os.environ, "CHECKPOINT_DISABLE": "1"}
    done = subprocess.run(
        [packer, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def version_of(packer: str) -> tuple[int, ...]:
    return numbers(ask(packer, "version")[1].split()[1].removeprefix("v"))


@pytest.fixture(scope="session")
def packer() -> str:
    """The Packer of the OCI bake: pinned and built here, or installed."""
    setup = subprocess.run([REPOSITORY / "scripts/setup/packer.sh"], capture_output=True, text=True, check=False)
    assert setup.returncode == 0, setup.stderr
    return setup.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def oci_packer(packer: str) -> str:
    """The same, if packer/oci can be asked of it."""
    if version_of(packer) < (1, 10):
        pytest.skip(f"{packer} is older than 1.10, and Go to build a newer one is not here")
    code, said = ask(packer, "init", "packer/oci")
    if code:
        pytest.skip(f"{packer} has no oracle plugin and cannot download one: {said}")
    return packer


@pytest.fixture(scope="session")
def qemu_packer(packer: str) -> str:
    """A Packer with a QEMU builder: Packer before 1.7 has it built in, later ones if the plugin is installed."""
    candidates = [candidate for candidate in (packer, shutil.which("packer")) if candidate]
    for candidate in candidates:
        if version_of(candidate) < (1, 7) or "packer-plugin-qemu" in ask(candidate, "plugins", "installed")[1]:
            return candidate
    pytest.skip(f"none of {', '.join(candidates)} has a QEMU builder")


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """What the templates' variables point at: a stage, a disk, a seed, keys, an OCI configuration."""
    folder = tmp_path_factory.mktemp("bake")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,  # PKCS#1: the oracle-oci builder parses it even to validate
        serialization.NoEncryption(),
    )
    (folder / "key.pem").write_bytes(pem)
    (folder / "config").write_text(
        "[DEFAULT]\nuser=ocid1.user.oc1..a\nfingerprint=aa:bb\ntenancy=ocid1.tenancy.oc1..a\nregion=eu-frankfurt-1\n"
        f"key_file={folder / 'key.pem'}\n"
    )
    for name in ("stage.tar", "disk.qcow2", "seed/user-data", "seed/meta-data", "inventory/packages"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


@pytest.fixture
def oci_values(files: Path) -> dict[str, object]:
    """What cloud/bake.py fills in."""
    return {
        "oci_config_file": files / "config",
        "oci_profile": "DEFAULT",
        "model": "demo",
        "version": "0.1.0",
        "image_name": "llamakiln-demo-0.1.0-arm64",
        "bake": "0123456789abcdef",
        "stage_tar": files / "stage.tar",
        "inventory_directory": files / "inventory",
        "manifest": files / "manifest.json",
    }


@pytest.fixture
def local_values(files: Path) -> dict[str, object]:
    """What make_image.py fills in."""
    return {
        "base_image": files / "disk.qcow2",
        "base_sha256": "0" * 64,
        "stage_tar": files / "stage.tar",
        "output_directory": files / "output",
        "inventory_directory": files / "inventory",
        "seed_directory": files / "seed",
        "ssh_username": "ubuntu",
        "ssh_private_key_file": files / "key.pem",
    }


def arguments(values: dict[str, object]) -> list[str]:
    return [word for name, value in values.items() for word in ("-var", f"{name}={value}")]


@pytest.mark.parametrize("directory", ["packer/local", "packer/oci"])
def test_templates_are_formatted(packer, directory):
    code, said = ask(packer, "fmt", "-check", "-diff", directory)
    assert code == 0, said


def test_oci_template_is_valid_with_the_example(oci_packer, oci_values):
    code, said = ask(oci_packer, "validate", f"-var-file={EXAMPLE}", *arguments(oci_values), "packer/oci")
    assert code == 0, said


def test_local_template_is_valid(qemu_packer, local_values):
    code, said = ask(qemu_packer, "validate", *arguments(local_values), "packer/local")
    assert code == 0, said


def test_oci_template_needs_the_key_file_it_is_given(oci_packer, oci_values, files):
    """The check above is a real one: it reads the credentials."""
    broken = files / "broken"
    broken.write_text((files / "config").read_text().replace("key.pem", "lost.pem"))
    values = {**oci_values, "oci_config_file": broken}
    code, said = ask(oci_packer, "validate", f"-var-file={EXAMPLE}", *arguments(values), "packer/oci")
    assert code != 0
    assert "'key_file' must be correctly specified" in said


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("compartment_ocid", "bake", "must begin with ocid1.compartment. or ocid1.tenancy."),
        ("availability_domain", "AD-1", "must look like Uocm:EU-FRANKFURT-1-AD-1"),
        ("subnet_ocid", "ocid1.vcn.oc1..a", "must begin with ocid1.subnet."),
        ("nsg_ocids", '["a","b","c","d","e","f"]', "at most 5 groups"),
        ("image_compartment_ocid", "images", "must be empty or begin with ocid1.compartment."),
        ("shape", "VM.Standard.E5.Flex", "must be VM.Standard.A2.Flex or VM.Standard.A1.Flex"),
        ("ocpus", "0", "must be from 1 to 76"),
        ("memory_gb", "1", "must be from 2 to 472"),
        ("boot_volume_gb", "49", "from 50 (OCI's least) to 400"),
        ("bake", "demo", "must be 16 hexadecimal digits"),
    ],
)
def test_wrong_value_for_oci_is_told_with_what_is_allowed(oci_packer, oci_values, name, value, message):
    values = {**oci_values, name: value}
    code, said = ask(oci_packer, "validate", f"-var-file={EXAMPLE}", *arguments(values), "packer/oci")
    assert code != 0
    assert f"The {name} value" in said
    assert message in said


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("base_sha256", "abc", "The base_sha256 value must be 64 hexadecimal digits"),
        ("accelerator", "hvf", "The accelerator value must be tcg or kvm"),
    ],
)
def test_wrong_value_for_local_is_told_with_what_is_allowed(qemu_packer, local_values, name, value, message):
    code, said = ask(qemu_packer, "validate", *arguments({**local_values, name: value}), "packer/local")
    assert code != 0
    assert message in said


def test_local_template_asks_for_no_plugin_and_no_new_packer():
    """Packer 1.6.6, Debian 12's, refuses required_plugins; a machine without it would not notice."""
    for path in (REPOSITORY / "packer/local").glob("*.pkr.hcl"):
        assert "packer" not in read_hcl(path), path


def test_example_names_exactly_the_variables_of_a_person():
    declared = read_declarations()
    text = EXAMPLE.read_text()
    set_, commented = (set(re.findall(pattern, text, re.M)) for pattern in (r"^(\w+) +=", r"^# (\w+) += \S+$"))
    assert set_ == {name for name, block in declared.items() if "default" not in block} - set(FILLED_IN)
    assert set_ | commented == set(declared) - set(FILLED_IN)


def test_example_shows_the_real_defaults():
    declared = read_declarations()
    text = EXAMPLE.read_text()
    for name, block in declared.items():
        if "default" in block:
            shown = re.search(rf"^# {name} += (\S+)$", text, re.M)[1].strip('"')
            default = block["default"]
            assert shown == (str(default).lower() if isinstance(default, bool) else str(default)), name


def test_example_lists_what_the_script_fills_in():
    listed = EXAMPLE.read_text().split("not here: ")[1].replace("#", "").rstrip(".\n")
    assert [name.strip() for name in listed.split(",")] == list(FILLED_IN)


def test_every_variable_says_what_it_is():
    for name, block in read_declarations().items():
        assert block.get("description"), name


def provisioners(directory: str) -> list[dict]:
    (build,) = read_hcl(REPOSITORY / directory / "build.pkr.hcl")["build"]
    return build["provisioner"]


def test_both_bakes_run_the_same_provisioners_in_the_same_order():
    """packer/local is the home of the order; Packer cannot share a block, so packer/oci repeats it."""
    assert provisioners("packer/oci") == provisioners("packer/local")


def test_every_provisioner_script_exists():
    blocks = [block for entry in provisioners("packer/local") for block in entry.values()]
    scripts = [path for block in blocks for path in [*block.get("scripts", []), block.get("script")] if path]
    assert len(scripts) > 5
    for path in scripts:
        assert (REPOSITORY / path).is_file(), path


def test_build_instance_has_no_old_metadata_endpoint():
    (source,) = read_hcl(REPOSITORY / "packer/oci/source.pkr.hcl")["source"]
    node = source["oracle-oci"]["node"]
    assert node["instance_options_are_legacy_imds_endpoints_disabled"] is True


def test_pinned_tools_are_new_enough_for_the_template():
    """packer/tools pins what packer/oci asks for: the two may not drift apart."""
    (packer,) = read_hcl(REPOSITORY / "packer/oci/plugin.pkr.hcl")["packer"]
    (plugins,) = packer["required_plugins"]
    needs = {"packer": packer["required_version"], "oracle": plugins["oracle"]["version"]}
    for folder, needed in needs.items():
        go_mod = (REPOSITORY / "packer/tools" / folder / "go.mod").read_text()
        pinned = re.search(r"^require \S+ v(\S+)$", go_mod, re.M)[1]
        assert numbers(pinned) >= numbers(needed.removeprefix(">= ")), folder


def test_oldest_packer_has_one_value():
    (packer,) = read_hcl(REPOSITORY / "packer/oci/plugin.pkr.hcl")["packer"]
    pins = (REPOSITORY / "packer/versions.env").read_text()
    assert f"PACKER_MIN_OCI={packer['required_version'].removeprefix('>= ')}\n" in pins
