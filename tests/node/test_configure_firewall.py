"""The rule for tcp/80 in the tables that OCI's Ubuntu images ship."""

import subprocess

import pytest

from scripts.files import REPOSITORY

# The shape of OCI's own file (November 2026): ssh accepted, the rest of INPUT rejected, and the InstanceServices chain
# that guards the iSCSI boot volume and the metadata service.
OCI_RULES = """\
# CLOUD_IMG: This file was created/modified by the Cloud Image build process
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [463:49013]
:InstanceServices - [0:0]
-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p icmp -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT
-A INPUT -j REJECT --reject-with icmp-host-prohibited
-A FORWARD -j REJECT --reject-with icmp-host-prohibited
-A OUTPUT -d 169.254.0.0/16 -j InstanceServices
-A InstanceServices -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j ACCEPT
COMMIT
"""
RULE = "-A INPUT -p tcp -m state --state NEW -m tcp --dport 80 -j ACCEPT"


def configure(directory):
    script = REPOSITORY / "scripts" / "node" / "configure_firewall.sh"
    return subprocess.run(["bash", script, directory], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["rules.v4", "rules.v6"])
def test_tcp_80_is_accepted_before_the_reject_and_nothing_else_changes(tmp_path, name):
    path = tmp_path / name
    path.write_text(OCI_RULES)
    assert configure(tmp_path).returncode == 0
    lines = path.read_text().splitlines()
    assert lines.index(RULE) == lines.index("-A INPUT -j REJECT --reject-with icmp-host-prohibited") - 1
    assert [line for line in lines if line != RULE] == OCI_RULES.splitlines()


def test_twice_is_once(tmp_path):
    path = tmp_path / "rules.v4"
    path.write_text(OCI_RULES)
    configure(tmp_path)
    once = path.read_text()
    assert configure(tmp_path).returncode == 0
    assert path.read_text() == once


def test_a_base_without_rules_needs_none(tmp_path):
    done = configure(tmp_path)
    assert done.returncode == 0
    assert "nothing to open" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_filter_without_reject_gets_the_rule_before_its_commit(tmp_path):
    path = tmp_path / "rules.v4"
    path.write_text("*nat\n:PREROUTING ACCEPT\nCOMMIT\n*filter\n:INPUT ACCEPT\nCOMMIT\n")
    assert configure(tmp_path).returncode == 0
    assert path.read_text() == f"*nat\n:PREROUTING ACCEPT\nCOMMIT\n*filter\n:INPUT ACCEPT\n{RULE}\nCOMMIT\n"


def test_a_file_without_filter_table_is_an_error(tmp_path):
    (tmp_path / "rules.v4").write_text("# empty\n")
    done = configure(tmp_path)
    assert done.returncode == 1
    assert "rules.v4" in done.stderr


def test_the_kernel_tools_take_the_result(tmp_path):
    """iptables-restore reads the whole file, in a network namespace of its own; only root may make one."""
    path = tmp_path / "rules.v4"
    path.write_text(OCI_RULES)
    configure(tmp_path)
    command = ["unshare", "--user", "--map-root-user", "--net", "iptables-restore", "--test", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
