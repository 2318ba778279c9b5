"""A person who deploys and destroys from a machine of their own, against the loopback tenancy."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.person import Terminal, settle_in
from tests.cloud.services.compute import IMAGE
from tests.cloud.services.resource_manager import RUNNING
from tests.cloud.tenancy import COMPARTMENT, REGION, Gate, Tenancy

APPLYING = r"POST .*/loadBalancers$"  # a call in the middle of an apply
NEWS_TIMEOUT_S = 600


class Deployer:
    """`deploy()` and `destroy()` run the scripts; `asked` holds what the deployment was asked at the end."""

    def __init__(self, folder: Path, tenancy: Tenancy, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.tenancy, self._monkeypatch = folder, tenancy, monkeypatch
        self.build = folder / "build"
        self.asked: list[tuple[str, str, bool]] = []
        settle_in(monkeypatch, tenancy, folder)
        self.build.mkdir()
        self.publish()
        self.type("")

    def publish(self, image: str = IMAGE, region: str = REGION) -> None:
        """As `make publish` leaves it."""
        (self.build / "image-oci.json").write_text(json.dumps({"image_ocid": image, "region": region}))

    def type(self, answer: str) -> None:
        """What stdin is: a terminal with this answer, or none."""
        self._monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n") if answer else io.StringIO())

    def variables(self, **values: Any) -> str:
        file = self.folder / "vars.json"
        file.write_text(json.dumps(values))
        return f"--vars={file}"

    def deploy(self, *arguments: str, sleep: Callable[[float], None] | None = None) -> int:
        from scripts.cloud.deploy import main

        def ask(url: str, key: str, is_self_signed: bool, *_others: object) -> None:
            self.asked.append((url, key, is_self_signed))

        return main([*self.arguments, *arguments], sleep=sleep or self.wait, ask=ask)

    def destroy(self, *arguments: str, sleep: Callable[[float], None] | None = None) -> int:
        from scripts.cloud.destroy import main

        return main([*self.arguments, *arguments], sleep=sleep or self.wait)

    @property
    def arguments(self) -> list[str]:
        self.tenancy.calls.clear()
        return [f"--compartment={COMPARTMENT}", f"--build={self.build}"]

    def wait(self, _seconds: float) -> None:
        """Until a running job has said or done something; nothing else takes time here."""
        if any(job["lifecycleState"] in RUNNING for job in self.jobs()):
            assert self.tenancy.job_news.wait(NEWS_TIMEOUT_S)
            self.tenancy.job_news.clear()

    def hold(self, call: str = APPLYING) -> tuple[Gate, Callable[[float], None]]:
        """A gate that holds a job at this call, and a `sleep` in which the person presses Ctrl-C once it is there."""
        gate = Gate(call)
        self.tenancy.gates.append(gate)

        def press(seconds: float) -> None:
            if gate.reached.is_set():
                raise KeyboardInterrupt
            self.wait(seconds)

        return gate, press

    def jobs(self, operation: str = "") -> list[dict]:
        return [job for job in self.tenancy.resources["jobs"].values() if operation in ("", job["operation"])]

    def stack(self) -> dict:
        (stack,) = self.tenancy.live("stacks")
        return stack

    def changes(self) -> list[str]:
        """Calls to Resource Manager that change something."""
        return [call for call in self.tenancy.calls if "/20180917/" in call and not call.startswith("GET")]
