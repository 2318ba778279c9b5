"""The node comes up whole and by itself: units, disk, console, clock, and nothing that a node does not use."""

import json

import pytest

BOOT_UNITS_OFF = {
    "apt-daily.timer": "would download package lists behind the model's back",
    "apt-daily-upgrade.timer": "would upgrade packages: nodes are replaced, never changed",
    "unattended-upgrades.service": "the same; on Debian it is not installed at all",
    "dpkg-db-backup.timer": "the package database does not change",
    "e2scrub_all.timer": "checks LVM snapshots, which the image does not have",
    "man-db.timer": "no manual pages to index",
    "motd-news.timer": "fetches news from the network for a login nobody reads",
    "fwupd-refresh.timer": "a virtual machine has no firmware to update",
    "ModemManager.service": "no modem",
    "multipathd.service": "one boot volume, one path",
    "multipathd.socket": "starts multipathd.service",
}


def test_no_unit_failed(facts):
    assert facts.lines("failed_units") == []


def test_boot_is_complete(facts):
    """`running` means that no start job is left and no unit failed."""
    assert facts["system_state"] == "running"


@pytest.mark.parametrize("unit", BOOT_UNITS_OFF)
def test_unit_does_not_start_at_boot(facts, unit):
    """Each unit's reason stands beside it in BOOT_UNITS_OFF: absent is as good as masked."""
    links = facts.lines("unit_links")
    is_masked = f"/etc/systemd/system/{unit} -> /dev/null" in links
    is_wanted = {name: any(f".wants/{name} -> " in link for link in links) for name in (unit, "llm.service")}
    assert is_wanted["llm.service"]
    assert is_masked or not is_wanted[unit], BOOT_UNITS_OFF[unit]
    assert "systemd-tmpfiles-clean.timer" in facts["timers"]
    assert unit not in facts["timers"], BOOT_UNITS_OFF[unit]


@pytest.mark.parametrize("unit", ["systemd-networkd-wait-online.service", "NetworkManager-wait-online.service"])
def test_service_does_not_wait_for_the_network(facts, unit):
    """llm.service listens on loopback: waiting for an address would only delay the first answer."""
    assert "llm.service" in facts["analyze_chain"]
    assert unit not in facts["analyze_chain"]


def test_disk_is_gpt_with_an_efi_system_partition(facts):
    """Arm shapes boot UEFI only, and the importer wants GPT."""
    disks = json.loads(facts["disks"])["blockdevices"]
    system = next(disk for disk in disks if "/" in json.dumps(disk.get("children", [])).split('"'))
    assert system["pttype"] == "gpt"
    assert [part["fstype"] for part in system["children"] if part["parttypename"] == "EFI System"] == ["vfat"]


def test_root_is_mounted_by_uuid(facts):
    """/dev/vda here is /dev/sda in Oracle Cloud. Ubuntu's own images name the root by label, which is as stable."""
    roots = [line.split()[0] for line in facts.lines("fstab") if line.split()[1] == "/"]
    assert len(roots) == 1
    assert roots[0].startswith(("UUID=", "PARTUUID=", "LABEL="))
    assert "root=/dev/" not in facts["command_line"]


def test_root_grew_to_the_boot_volume(facts):
    """cloud-init's growpart and resizefs: the image is small, the boot volume is not. 10 % for ESP and ext4's own."""
    device, size = facts["root_size"].split()
    disks = json.loads(facts["disks"])["blockdevices"]
    disk = next(disk for disk in disks if device in [part["name"] for part in disk.get("children", [])])
    assert int(size) > 0.9 * disk["size"] - (1 << 28)


def test_console_is_serial(facts):
    """Oracle Cloud's console connection is ttyAMA0."""
    assert "console=ttyAMA0" in facts["command_line"].split()


def test_there_is_no_swap(facts):
    """A model that is swapped out answers minutes late; better killed and restarted by systemd."""
    assert facts.lines("swaps") == []


def test_clock_is_kept_in_step(facts):
    """TLS and request signatures need the time."""
    assert "active" in facts.lines("time_units")


def test_cloud_init_finished_without_errors(facts):
    result = json.loads(facts["cloud_result"])["v1"]
    assert result["errors"] == []


def test_cloud_init_asked_the_right_one(facts):
    """Oracle's metadata service where the machine says it is Oracle Cloud's, the seed disk elsewhere."""
    source = json.loads(facts["cloud_result"])["v1"]["datasource"]
    assert ("DataSourceOracle" if facts["asset_tag"] == "OracleCloud.com" else "DataSourceNoCloud") in source


def test_user_data_are_carried_out(facts, is_fresh):
    """The stack hands a node its settings this way (write_files)."""
    if not is_fresh:
        pytest.skip("not booted by us: its user data are its own")
    assert facts["user_data"] == "yes"


@pytest.mark.parametrize(
    "module", ["apt_configure", "package_update_upgrade_install", "snap", "landscape", "ubuntu_drivers"]
)
def test_cloud_init_installs_nothing(facts, module):
    """A node boots from what was baked: no package index is asked, whatever the user data say."""
    modules = json.dumps(json.loads(facts["cloud_config"])).replace("-", "_")
    assert f'"{module}"' not in modules


@pytest.mark.parametrize("module", ["growpart", "resizefs", "ssh", "users_groups", "set_hostname"])
def test_cloud_init_does_what_a_node_needs(facts, module):
    modules = json.dumps(json.loads(facts["cloud_config"])).replace("-", "_")
    assert f'"{module}"' in modules


def test_cloud_init_looks_for_oracle(facts):
    """The Oracle data source, and NoCloud for a local boot; a list keeps it from asking every cloud there is."""
    sources = facts["cloud_sources"].partition(":")[2].strip(" []").split(", ")
    assert "Oracle" in sources
    assert set(sources) <= {"Oracle", "NoCloud", "None"}
