"""Every error that has a name here, with the HTTP status and the OpenAI error type it becomes.

    ServiceError                   500 server_error            what a client may be told
    ├── BadRequest                 400 invalid_request_error   a value the client can correct
    │   ├── Unauthorized           401 no API key
    │   │   └── WrongKey           401 one that is none of ours
    │   ├── NotFound               404
    │   ├── MethodNotAllowed       405
    │   ├── BodyTooLarge           413
    │   ├── UnsupportedMedia       415
    │   ├── Misdirected            421 a Host that is not this machine
    │   ├── TooManyGuesses         429 rate_limit_error, with Retry-After
    │   └── ConstraintFailed       400 the answer cannot go on as its grammar wants
    ├── Unavailable                503 server_error            with Retry-After: the same request may work later
    │   ├── QueueFull              503 too many wait, or too long (not 429: the node is busy, whoever asks)
    │   ├── NotReady               503 the model is still loading
    │   └── Draining               503 the process is about to end
    ├── TimedOut                   504 server_error
    └── ClientGone                 499 nobody is left to read it
    ConfigError                    exit 78 (EX_CONFIG)         settings to correct; holds every fault found
    ModelError                     fails one request           the model refused one step
    ├── NoRoom                     the engine makes room and tries again
    └── ModelFatal                 exit 70 (EX_SOFTWARE)       the model's state cannot be trusted any more

Knows nothing of HTTP libraries, JSON or llama.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

EXIT_SOFTWARE = 70
EXIT_CONFIG = 78


class ServiceError(Exception):
    status = 500
    type = "server_error"
    code: str | None = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.retry_after_s = retry_after_s


class BadRequest(ServiceError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class Unauthorized(BadRequest):
    status = 401
    code = "invalid_api_key"


class WrongKey(Unauthorized):
    """A key was brought, and it is none of ours."""


class NotFound(BadRequest):
    status = 404
    code = "not_found"


class MethodNotAllowed(BadRequest):
    status = 405
    code = "method_not_allowed"


class BodyTooLarge(BadRequest):
    status = 413
    code = "body_too_large"


class Misdirected(BadRequest):
    status = 421
    code = "host_not_allowed"


class TooManyGuesses(BadRequest):
    status = 429
    type = "rate_limit_error"
    code = "too_many_wrong_keys"


class UnsupportedMedia(BadRequest):
    status = 415
    code = "unsupported_media_type"


class ConstraintFailed(BadRequest):
    code = "grammar_failed"


class Unavailable(ServiceError):
    status = 503
    code = "unavailable"


class QueueFull(Unavailable):
    code = "queue_full"


class NotReady(Unavailable):
    code = "not_ready"


class Draining(Unavailable):
    code = "draining"


class TimedOut(ServiceError):
    status = 504
    code = "timeout"


class ClientGone(ServiceError):
    status = 499
    code = "client_gone"


class ConfigError(Exception):
    """The settings cannot be used. `faults` lists every reason, so one start-up shows them all."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class ModelError(Exception):
    """The model refused one step; its state is as it was before, or was cleared."""


class NoRoom(ModelError):
    """The KV cache cannot take this step; nothing was changed."""


class ModelFatal(ModelError):
    """The model cannot go on, or was never loaded: the process should end and be started again."""
