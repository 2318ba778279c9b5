"""The stack as Terraform itself sees it: the release that Resource Manager runs accepts every line."""

import json
import subprocess

from tests.stack.deployment import STACK, Deployment


def test_terraform_is_the_release_that_resource_manager_runs(deployment: Deployment) -> None:
    assert json.loads(deployment.run("version", "-json"))["terraform_version"] == "1.5.7"


def test_files_are_formatted(terraform) -> None:
    subprocess.run([terraform / "terraform", "fmt", "-check", "-diff", STACK], check=True)


def test_files_are_valid(deployment: Deployment) -> None:
    said = json.loads(deployment.run("validate", "-json"))
    assert said["valid"]
    # The one warning is that the tls provider is our own build.
    assert [one["summary"] for one in said["diagnostics"]] == ["Provider development overrides are in effect"]
