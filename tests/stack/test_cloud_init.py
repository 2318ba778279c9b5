"""What nodes get at boot: valid cloud-config with this deployment's settings, which the service accepts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from service.config import SETTINGS, load
from tests.stack.combinations import PROMPT
from tests.stack.deployment import KEY, REPOSITORY, Deployment, user_data

CHOSEN = {
    "api_key": KEY,
    "system_prompt": PROMPT,
    "max_streams": "8",
    "max_tokens": 300,
    "max_queue": 7,
    "max_wait_s": 9,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, terraform: Path) -> dict[str, dict]:
    """The files of write_files, by path."""
    from tests.stack.deployment import deploying

    with deploying(tmp_path_factory.mktemp("cloud-init"), terraform) as running:
        config = user_data(running.plan(**CHOSEN, request_timeout_s=100))
    assert set(config) == {"write_files"}  # nothing is installed, nothing is run
    return {one["path"]: one for one in config["write_files"]}


def sourced(text: str, tmp_path: Path) -> dict[str, str]:
    """The settings as a shell reads them; systemd reads double quotes the same way."""
    (tmp_path / "llm.env").write_text(text)
    script = "set -a; . ./llm.env; env -0"
    output = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True, env={}
    ).stdout
    pairs = (entry.split("=", 1) for entry in output.split("\0") if "=" in entry)
    return {name: value for name, value in pairs if name.startswith("LLM_")}


def test_settings_are_appended_to_the_images_own(written: dict) -> None:
    assert written["/etc/llm/llm.env"]["append"] is True
    assert written["/etc/llm/llm.env"]["content"].startswith("\n")


def test_service_accepts_the_settings(written: dict, tmp_path: Path) -> None:
    found = sourced(written["/etc/llm/llm.env"]["content"], tmp_path)
    assert set(found) <= {setting.name for setting in SETTINGS}
    (tmp_path / "keys").write_text(written["/etc/llm/api-keys"]["content"])
    here = {"LLM_API_KEYS_FILE": str(tmp_path / "keys"), "LLM_LIB_DIR": "/"}
    config = load({**found, **here, "LLM_MODEL": str(REPOSITORY / "packer/models/demo.gguf")})
    assert (config.max_streams, config.max_tokens, config.max_queue) == (8, 300, 7)
    assert (config.max_wait_s, config.request_timeout_s) == (9, 100)
    assert config.system_prompt == PROMPT


def test_only_the_service_may_read_the_key(written: dict) -> None:
    keys = written["/etc/llm/api-keys"]
    assert (keys["owner"], keys["permissions"], keys["content"]) == ("llm:llm", "0400", f"{KEY}\n")
    assert 'LLM_API_KEYS_FILE="/etc/llm/api-keys"' in written["/etc/llm/llm.env"]["content"]


def test_without_a_key_there_is_no_key_file(deployment: Deployment) -> None:
    config = user_data(deployment.plan(has_api_key=False))
    assert [one["path"] for one in config["write_files"]] == ["/etc/llm/llm.env"]
    assert "API_KEYS" not in config["write_files"][0]["content"]


def test_image_runs_write_files_before_the_service_starts() -> None:
    """The baked cloud-init must keep the module that the template needs."""
    baked = (REPOSITORY / "packer/files/etc/cloud/cloud.cfg.d/90-llamakiln.cfg").read_text()
    assert "  - write_files\n" in baked
