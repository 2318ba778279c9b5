from __future__ import annotations

import pytest

from scripts.models.catalog import find_model, load_catalog, parse_catalog
from scripts.problem import Problem

ROW = {
    "repo": '"owner/name"',
    "revision": '"' + "a" * 40 + '"',
    "file": '"tiny.Q4_0.gguf"',
    "sha256": '"' + "b" * 64 + '"',
    "bytes": "1234",
    "license": '"MIT"',
    "template": '"gguf"',
    "context": "2048",
}


def text_of(name: str = "tiny", **changes: str | None) -> str:
    row = {**ROW, **changes}
    return f"[{name}]\n" + "".join(f"{field} = {value}\n" for field, value in row.items() if value is not None)


def test_shipped_catalogue_is_valid_and_keeps_its_pins():
    models = load_catalog()
    assert {"demo", "tinyllama-q4_0", "tinyllama-q4_k_m", "phi-2-q4_k_m", "qwen2.5-0.5b-q4_k_m"} <= set(models)
    tiny = models["tinyllama-q4_0"]
    assert tiny.revision == "52e7645ba7c309695bec7ac98f4f005b139cf465"
    assert (tiny.bytes, tiny.sha256[:8], tiny.context) == (637699456, "da3087fb", 2048)
    assert models["phi-2-q4_k_m"].template == "phi-2"


def test_right_row_becomes_a_model():
    model = parse_catalog(text_of(file='"sub/tiny.Q4_0.gguf"'))["tiny"]
    assert (model.name, model.bytes, model.file_name) == ("tiny", 1234, "tiny.Q4_0.gguf")


def test_row_may_carry_settings_of_the_engine():
    model = parse_catalog(text_of(settings='{ LLM_REPACK = "off", LLM_THREADS = "3" }'))["tiny"]
    assert model.settings == {"LLM_REPACK": "off", "LLM_THREADS": "3"}


def test_row_with_path_takes_its_file_name_from_it():
    text = text_of(repo=None, revision=None, file=None, path='"packer/models/demo.gguf"')
    assert parse_catalog(text)["tiny"].file_name == "demo.gguf"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sha256": '"abc"'}, "[tiny] sha256 = 'abc': must be 64 lower-case hexadecimal digits"),
        ({"bytes": "0"}, "[tiny] bytes = 0: must be a whole number from 1 to"),
        ({"bytes": "true"}, "[tiny] bytes = True: must be a whole number"),
        ({"bytes": '"1234"'}, "[tiny] bytes = '1234': must be a whole number"),
        ({"context": "64"}, "[tiny] context = 64: must be a whole number of tokens from 128 to 131072"),
        ({"template": '"jinja"'}, "[tiny] template = 'jinja': must be one of gguf, phi-2"),
        ({"revision": '"main"'}, "never a branch or tag"),
        ({"repo": '"name"'}, "[tiny] repo = 'name': must be OWNER/NAME"),
        ({"file": '"../../etc/passwd.gguf"'}, "must be a relative path that ends in .gguf, without '..'"),
        ({"file": '"/etc/x.gguf"'}, "must be a relative path"),
        ({"license": '""'}, "[tiny] license = '': must be 1 to 100 characters"),
        ({"license": None}, "[tiny] license: missing"),
        ({"repo": None}, "[tiny] repo: missing; must be OWNER/NAME"),
        ({"sha265": '"x"'}, "[tiny] sha265: unknown field; allowed are file, sha256"),
        ({"path": '"packer/models/demo.gguf"'}, "takes no repo"),
        ({"settings": '"fast"'}, "[tiny] settings = 'fast': must be a table of LLM_FLASH_ATTN, LLM_REPACK"),
        ({"settings": '{ LLM_MODEL = "x" }'}, "[tiny] settings.LLM_MODEL: unknown; allowed are LLM_FLASH_ATTN"),
        ({"settings": '{ LLM_REPACK = "of" }'}, "[tiny] settings.LLM_REPACK=of: must be one of on, off"),
        ({"settings": "{ LLM_THREADS = 3 }"}, "[tiny] settings.LLM_THREADS=: must be a whole number"),
    ],
)
def test_wrong_value_is_named_with_row_and_field_and_what_is_allowed(changes, expected):
    with pytest.raises(Problem) as caught:
        parse_catalog(text_of(**changes))
    assert expected in caught.value.message


def test_every_fault_is_reported_at_once():
    with pytest.raises(Problem) as caught:
        parse_catalog(text_of(sha256='"x"', bytes="-1") + text_of("Other"))
    assert caught.value.message.count("\n  ") == 3


def test_unquoted_dot_in_a_name_is_explained():
    with pytest.raises(Problem, match=r'must be quoted: \["qwen2\.5"\]'):
        parse_catalog(text_of("qwen2.5"))


def test_broken_toml_names_the_file_and_the_line():
    with pytest.raises(Problem, match=r"models\.toml is not valid TOML: .*line 1"):
        parse_catalog("[tiny\n")


def test_unreadable_catalogue_is_a_problem(tmp_path):
    with pytest.raises(Problem, match="cannot read"):
        load_catalog(tmp_path / "absent.toml")


def test_unknown_model_lists_the_known_and_the_likeliest():
    models = parse_catalog(text_of("tinyllama-q4_0") + text_of("phi-2"))
    with pytest.raises(Problem) as caught:
        find_model("TinyLama", models)
    assert "MODEL=TinyLama: no such model; did you mean tinyllama-q4_0?" in caught.value.message
    assert "one of tinyllama-q4_0, phi-2" in caught.value.way_out


def test_command_prints_names_and_rows_and_fails_without_a_traceback(run_script):
    assert "tinyllama-q4_0" in run_script("models.catalog").stdout.splitlines()
    assert '"context": 2048' in run_script("models.catalog", "tinyllama-q4_0").stdout
    wrong = run_script("models.catalog", "nonesuch")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: MODEL=nonesuch") and "Traceback" not in wrong.stderr
