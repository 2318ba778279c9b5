"""What an answer is bound to: GBNF, any JSON object, or JSON of a schema, as the model keeps to it token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import BadRequest


class Grammarian(Protocol):
    """What is needed of the model; both raise ValueError with the reason."""

    def check_grammar(self, gbnf: str) -> None: ...

    def json_grammar(self, schema: dict[str, Any] | None) -> str: ...


@dataclass(frozen=True)
class Grammar:
    """Either gbnf, or a JSON Schema (None: any JSON object). param: where the client said so."""

    param: str
    gbnf: str | None = None
    schema: dict[str, Any] | None = None

    def resolve(self, model: Grammarian) -> str:
        """The GBNF to keep to. Raises BadRequest with the model's reason."""
        try:
            gbnf = model.json_grammar(self.schema) if self.gbnf is None else self.gbnf
            model.check_grammar(gbnf)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"{self.param}: {error}"[:500], param=self.param, code="invalid_grammar") from error
        return gbnf
