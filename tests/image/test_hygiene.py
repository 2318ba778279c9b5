"""Nothing of the bake is left: keys, ids, logins, logs, caches, tools. Each item stands in a table with its reason."""

import pytest

PACKAGES_OFF = {
    "build-essential": "nodes run what was built elsewhere",
    "gcc": "the same",
    "g++": "the same",
    "make": "the same",
    "cmake": "the same",
    "git": "the same",
    "libc6-dev": "headers are for compilers",
    "python3-dev": "headers are for compilers",
    "python3-pip": "the venv is complete; nothing is installed on a node",
    "popularity-contest": "reports home",
}
SET_ID_ALLOWED = {  # of Debian's and Ubuntu's own packages
    "chage", "chfn", "chsh", "crontab", "dbus-daemon-launch-helper", "expiry", "fusermount", "fusermount3", "gpasswd",
    "mount", "mount.nfs", "newgrp", "pam_extrausers_chkpwd", "passwd", "pkexec", "plocate", "polkit-agent-helper-1",
    "snap-confine", "ssh-agent", "ssh-keysign", "su", "sudo", "umount", "unix_chkpwd", "utempter", "wall", "write.ul",
}  # fmt: skip
HOMES_ALLOWED = (
    ".bashrc",
    ".profile",
    ".bash_logout",
    ".ssh",
    ".ssh/authorized_keys",
    ".sudo_as_admin_successful",
    ".cache",
)


EMPTY = {
    "build_tools": "a compiler on a node is a gift to an intruder, and half a gigabyte",
    "foreign_owned": "all that we installed is root's, so that the service cannot change itself",
    "group_writable": "the same for groups",
    "apt_leftovers": "package lists and archives are stale on the day of the boot, and 100 MB",
    "caches": "pip's and others' caches",
    "passwords": "no account has a password",
    "private_keys": "no private key is baked; host keys are made at first boot",
}


@pytest.mark.parametrize("item", EMPTY)
def test_image_has_no(facts, item):
    """Reasons stand beside each item in EMPTY."""
    assert facts.lines(item) == [], EMPTY[item]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("writable", "a world-writable file or folder (sticky /tmp aside) lets one service plant things for another"),
        ("history", "typed commands may hold secrets"),
    ],
)
def test_no_file_is(facts, kind, reason):
    assert list(facts.found(kind)) == [], reason


def test_file_capabilities_are_the_base_s_own(facts):
    """Like set-id files: ping's raw socket and the like, and none from us."""
    known = {"ping", "mtr-packet", "snap-confine", "gst-ptp-helper"}
    assert {path.rsplit("/", 1)[1] for path in facts.lines("capabilities")} - known == set()


@pytest.mark.parametrize("package", PACKAGES_OFF)
def test_package_is_not_installed(facts, package):
    assert "openssh-server" in facts.lines("packages")
    assert package not in facts.lines("packages"), PACKAGES_OFF[package]


def test_no_set_id_files_were_added(facts):
    """setuid and setgid programs of the base, and none from us."""
    found = {path.rsplit("/", 1)[1] for path in facts.found("set_id")}
    assert "sudo" in found
    assert found - SET_ID_ALLOWED == set()


def test_only_one_person_can_log_in(facts):
    """cloud-init's default user; the bake's own login is gone."""
    people = [line.split(":") for line in facts.lines("passwd")]
    assert {person[0] for person in people if 1000 <= int(person[2]) < 60000} in ({"ubuntu"}, {"debian"}, {"opc"})


def test_sudo_is_for_that_person_only(facts):
    """Who may become root: root, the groups of the distribution, and the default user by cloud-init's own file."""
    who = {
        line.split()[0] for line in facts.lines("sudoers") if not line.startswith(("Defaults", "@include", "#include"))
    }
    assert "root" in who
    assert who <= {"root", "%sudo", "%admin", "ubuntu", "debian", "opc"}


def test_home_folders_hold_nothing(facts, is_fresh):
    if not is_fresh:
        pytest.skip("not the first boot: people may have logged in")
    files = [
        path.split("/", 3)[3] for path in facts.lines("homes") if path.startswith("/home/") and path.count("/") > 2
    ]
    roots = [path.split("/", 2)[2] for path in facts.lines("homes") if path.startswith("/root/")]
    assert [name for name in (*files, *roots) if name not in HOMES_ALLOWED] == []


def test_authorized_keys_came_with_this_node(facts, node_key, is_fresh):
    """A key left by the bake would open every node of everybody who uses the image.

    On a first boot of ours: exactly the key that we gave. Elsewhere: every such file was written after the bake.
    """
    if is_fresh:
        keys = set()
        for words in (line.split() for line in facts.lines("authorized_keys")):
            start = next(index for index, word in enumerate(words) if word.startswith("ssh-"))
            keys.add(" ".join(words[start : start + 2]))
        assert keys == {node_key}
    files = facts.found("authorized_keys")
    assert files
    assert all(path.startswith(("/home/", "/root/.ssh/")) for path in files)
    assert min(files.values()) > float(facts["baked_at"])


def test_host_keys_were_made_on_this_node(facts):
    """Shared host keys would let any node pose as any other."""
    times = [float(line.split()[0]) for line in facts.lines("host_keys_made")]
    assert times
    assert min(times) > float(facts["baked_at"])


def test_machine_id_is_set(facts):
    """Made at first boot: 32 hexadecimal digits; two copies have different ones (test_copies.py)."""
    assert len(facts["machine_id"]) == 32


def test_journal_begins_with_this_boot(facts, is_fresh):
    if not is_fresh:
        pytest.skip("not the first boot")
    assert len(facts.lines("journal_boots")) == 1


def test_cloud_init_has_run_once(facts, is_fresh):
    """Its state was cleaned: this node is an instance of its own, not the bake's."""
    if not is_fresh:
        pytest.skip("not the first boot")
    assert facts["cloud_runs"] == "1"
    assert len(facts.lines("cloud_instances")) == 1


@pytest.mark.parametrize("item", ["bake_logs", "temporary"])
def test_first_boot_finds_no(facts, is_fresh, item):
    """Logs of the bake's packages, and files in /tmp and /var/tmp."""
    if not is_fresh:
        pytest.skip("not the first boot: a running node makes its own")
    assert facts.lines(item) == []
