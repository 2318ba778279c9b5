"""The tree in the docstring is the tree in the code."""

from __future__ import annotations

import re

import pytest

from service import errors

ROWS = re.findall(r"(\w+) +(\d{3}) (?:(server_error|invalid_request_error))?", errors.__doc__ or "")


@pytest.mark.parametrize(("name", "status", "type"), ROWS, ids=[row[0] for row in ROWS])
def test_status_and_type_are_as_drawn(name: str, status: str, type: str):
    error = getattr(errors, name)
    assert error.status == int(status)
    assert not type or error.type == type
    assert 400 <= error.status < 500 if issubclass(error, errors.BadRequest) else True


def test_every_error_is_drawn():
    classes = {name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, Exception)}
    drawn = set(re.findall(r"[│├└─ ]*(\w+)", errors.__doc__ or ""))
    assert classes <= drawn
