"""Wait until a deployment answers: ready by its own word, and then with a generated token.

Knows a node's API. Knows nothing of who made the deployment.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from ..problem import Problem

WAIT_MINUTES = 20  # an instance boots in minutes, and a large model is read from its boot volume once
POLL_S = 10.0
TIMEOUT_S = 60.0


def wait_for_answer(
    url: str,
    api_key: str,
    is_self_signed: bool,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once `url` has generated a token; at most WAIT_MINUTES.

    is_self_signed: the certificate is the stack's own, which nobody vouches for, so it is not verified.
    """
    said = ""
    with httpx.Client(base_url=url, verify=not is_self_signed, timeout=TIMEOUT_S) as client:
        for _ in range(int(WAIT_MINUTES * 60 / POLL_S)):
            try:
                heard = look(client, api_key)
            except httpx.HTTPError as error:
                heard = f"{type(error).__name__}: {error}"
            if not heard:
                return
            if heard != said:
                say(f"{url}: not yet ({heard})")
                said = heard
            sleep(POLL_S)
    raise Problem(
        f"{url} did not answer within {WAIT_MINUTES} minutes; last: {said}",
        "make status, or look at the backend set of the load balancer and at a node's console; then run again",
    )


def look(client: httpx.Client, api_key: str) -> str:
    """Nothing when a token came, else what came instead."""
    ready = client.get("/readyz")
    if ready.status_code != httpx.codes.OK:
        return f"/readyz: {ready.status_code}"
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    answer = client.post("/generate", json={"prompt": "Hello", "max_tokens": 1}, headers=headers)
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise Problem(
            f"{client.base_url} is ready and refuses the stack's API key ({answer.status_code})",
            "the key was changed after these nodes were made: replace them (make rollout)",
        )
    return "" if answer.status_code == httpx.codes.OK else f"/generate: {answer.status_code}"
