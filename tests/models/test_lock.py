from __future__ import annotations

import hashlib

import pytest

from scripts.models.catalog import load_catalog
from scripts.models.lock import derive_name
from tests.models.hub import COMMIT

REPO, FILE = "owner/Tiny-GGUF", "Tiny-1.1b-Chat.Q4_K_M.gguf"
CONTENT = b"GGUF" + bytes(range(256)) * 40
CARD = {
    "cardData": {"license": "apache-2.0"},
    "gguf": {"architecture": "llama", "context_length": 2048, "chat_template": "{{ messages }}"},
}
OLD = """# Kept as it is:  odd   spacing too
[old-model]   # and this
repo = "owner/old"
revision = "0123456789012345678901234567890123456789"
file = "old.gguf"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
bytes = 12
license = "MIT"
template = "gguf"
context = 512
"""


@pytest.fixture
def lock(hub, run_script, tmp_path):
    """Run `lock REPO FILE` against the hub and a catalogue with one old row; returns (process, catalogue)."""
    hub.files[REPO, FILE] = CONTENT
    hub.files[REPO, "README.md"] = b"# Tiny"
    hub.cards[REPO] = dict(CARD)
    catalog = tmp_path / "models.toml"
    catalog.write_text(OLD)

    def run(*arguments: object, repo: str = REPO, file: str = FILE, **variables: str):
        variables = {"HF_ENDPOINT": hub.url, **variables}
        return run_script("models.lock", repo, file, "--catalog", catalog, *arguments, **variables), catalog

    return run


def assert_refused(outcome, *expected: str) -> None:
    done, catalog = outcome
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    for text in expected:
        assert text in done.stderr
    assert catalog.read_text() == OLD


def test_row_is_pinned_from_the_hub_and_the_fetch_accepts_it(lock, hub, run_script):
    done, catalog = lock()
    assert done.returncode == 0, done.stderr
    assert done.stdout == "tiny-1.1b-chat-q4_k_m\n"
    assert catalog.read_text().startswith(OLD), "comments, order and spacing of the other rows stay"
    assert '\n\n["tiny-1.1b-chat-q4_k_m"]\n' in catalog.read_text()
    row = load_catalog(catalog)["tiny-1.1b-chat-q4_k_m"]
    assert (row.repo, row.file, row.revision) == (REPO, FILE, COMMIT)
    assert (row.bytes, row.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert (row.license, row.template, row.context) == ("Apache-2.0", "gguf", 2048)
    fetched = run_script("models.fetch", row.name, "--catalog", catalog, HF_ENDPOINT=hub.url)
    assert fetched.returncode == 0, fetched.stderr


def test_options_win_over_what_the_hub_says(lock):
    done, catalog = lock("--name", "mine", "--license", "MIT", "--context", 1024, "--template", "phi-2")
    assert done.returncode == 0, done.stderr
    row = load_catalog(catalog)["mine"]
    assert (row.license, row.template, row.context) == ("MIT", "phi-2", 1024)


def test_long_trained_context_starts_at_the_default(lock, hub):
    hub.cards[REPO] = {**CARD, "gguf": {"context_length": 131072, "chat_template": "x"}}
    done, catalog = lock()
    assert done.returncode == 0, done.stderr
    assert load_catalog(catalog)["tiny-1.1b-chat-q4_k_m"].context == 4096


def test_named_licence_of_the_card_is_taken_over_other(lock, hub):
    hub.cards[REPO] = {**CARD, "cardData": {"license": "other", "license_name": "tiny-community"}}
    done, catalog = lock()
    assert done.returncode == 0, done.stderr
    assert load_catalog(catalog)["tiny-1.1b-chat-q4_k_m"].license == "tiny-community"


def test_name_that_is_taken_is_refused(lock):
    assert_refused(lock("--name", "old-model"), "[old-model] is already in", "NAME=<name>")


def test_same_file_under_another_name_is_refused(lock):
    done, catalog = lock("--name", "first")
    assert done.returncode == 0, done.stderr
    before = catalog.read_text()
    again, _ = lock("--name", "second")
    assert again.returncode == 1 and "already has this very file as [first]" in again.stderr
    assert catalog.read_text() == before


def test_unknown_file_names_the_likeliest(lock):
    assert_refused(lock(file="Tiny-1.1b-Chat.Q4_K.gguf"), "has no file", f"did you mean {FILE}?", f"one of {FILE}")


def test_unknown_repository_and_revision_are_told(lock):
    assert_refused(lock(repo="owner/none"), "(404)")
    assert_refused(lock("--revision", "v9"), f"{REPO} has no revision v9")


def test_words_that_name_no_repository_are_refused(lock):
    assert_refused(lock(repo="no repo"), "REPO=no repo: must be OWNER/NAME")


def test_card_without_licence_asks_for_it(lock, hub):
    hub.cards[REPO] = {**CARD, "cardData": {}}
    assert_refused(lock(), "names no licence", "--license")


def test_file_without_chat_template_asks_for_one(lock, hub):
    hub.cards[REPO] = {**CARD, "gguf": {"context_length": 2048}}
    assert_refused(lock(), "no chat template", "--template")


def test_small_text_file_is_no_model(lock):
    assert_refused(lock(file="README.md"), "not kept as a large file")


def test_split_model_is_refused(lock):
    assert_refused(lock(file="big-00001-of-00003.gguf"), "one part of a split model")


def test_gated_repository_is_pinned_with_the_token_and_says_so(lock, hub):
    hub.faults.needs_token = "hf_secret"
    hub.cards[REPO] = {**CARD, "gated": "manual"}
    assert_refused(lock(), "(401)", "HF_TOKEN=<your token>")
    done, _ = lock(HF_TOKEN="hf_secret")
    assert done.returncode == 0 and "is gated" in done.stderr


def test_unreachable_hub_is_told(lock):
    assert_refused(lock(HF_ENDPOINT="http://127.0.0.1:9"), "cannot reach http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("tinyllama-1.1b-chat-v1.0.Q4_0.gguf", "tinyllama-1.1b-chat-v1.0-q4_0"),
        ("sub/Qwen_Qwen3-1.7B-IQ4_XS.gguf", "qwen_qwen3-1.7b-iq4_xs"),
        ("Model (new)_F16.gguf", "model-new-f16"),
    ],
)
def test_name_is_derived_from_the_file(file, name):
    assert derive_name(file) == name
