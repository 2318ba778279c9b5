"""What was baked is what runs: units, library set, model, wheels, bench; and image.json says the truth about it."""

import json
import re
from pathlib import Path

import pytest

KERNELS = Path(__file__).resolve().parents[1] / "libllama" / "kernels.py"
SECURITY_AT_MOST = 1.2  # systemd-analyze's scale: 0 shut in, 10 free; a bare unit has 9.2
CPU_FLAGS = {"a2": {"i8mm", "bf16", "asimddp"}, "a1": {"asimddp"}}


def sets(facts) -> dict[str, dict]:
    """Library sets on the image: directory -> its set.json."""
    return {name: json.loads(text) for name, text in (line.split(" ", 1) for line in facts.lines("sets"))}


def loaded_set(facts) -> str:
    """The set whose libllama the running service has mapped: the kernel's word, not the service's."""
    found = {line.split("/")[4] for line in facts.lines("llm_maps")}
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Type", "notify"),
        ("User", "llm"),
        ("Group", "llm"),
        ("ActiveState", "active"),
        ("SubState", "running"),
        ("UnitFileState", "enabled"),
        ("Restart", "always"),
    ],
)
def test_llm_unit(facts, key, value):
    """notify: started means that a token was generated."""
    assert facts.table("llm_unit")[key] == value


@pytest.mark.parametrize(("key", "value"), [("ActiveState", "active"), ("UnitFileState", "enabled")])
def test_nginx_unit(facts, key, value):
    assert facts.table("nginx_unit")[key] == value


def test_service_runs_as_its_own_user(facts):
    assert facts["llm_owner"] == "llm"


def test_llm_user_cannot_log_in(facts):
    fields = next(line.split(":") for line in facts.lines("passwd") if line.startswith("llm:"))
    assert fields[6] in ("/usr/sbin/nologin", "/bin/false")
    assert int(fields[2]) < 1000


def test_service_is_sandboxed(facts):
    score = re.search(r"exposure level for llm.service: ([\d.]+)", facts["llm_security"])
    assert float(score[1]) <= SECURITY_AT_MOST


def test_service_writes_no_core_files(facts):
    """Neither now nor if it raised its own limit: a core file would hold prompts and answers."""
    limit = next(line for line in facts.lines("llm_limits") if line.startswith("Max core file size"))
    assert limit.split()[4:6] == ["0", "0"]


def test_cpu_is_the_expected_one(facts, pytestconfig):
    """The emulated CPU really has, and lacks, what tells the shapes apart; SVE would make it neither of them."""
    wanted = pytestconfig.getoption("--node-cpu")
    if wanted is None:
        pytest.skip("no --node-cpu given: this node's CPU is what it is")
    features = set(facts["cpu_features"].split())
    assert CPU_FLAGS[wanted] <= features
    assert "sve" not in features
    assert ("i8mm" in features) == (wanted == "a2")


@pytest.mark.parametrize("name", ["arm64-a1", "arm64-a1-blas", "arm64-a2", "arm64-a2-blas"])
def test_library_set_is_on_the_image(facts, name):
    """One image for both shapes, with OpenBLAS (the architecture asks for it) and without (faster)."""
    assert sets(facts)[name]["name"] == name
    assert sets(facts)[name]["blas"] == name.endswith("-blas")


def test_right_library_set_is_loaded(facts):
    """The set made for this CPU (SIGILL or lost i8mm otherwise), with OpenBLAS only where llm.env asks for it."""
    shape = "a2" if {"i8mm", "bf16"} <= set(facts["cpu_features"].split()) else "a1"
    blas = facts.table("llm_env").get("LLM_BLAS", "auto")
    assert loaded_set(facts) == f"arm64-{shape}" + ("-blas" if blas == "on" else "")


def test_library_choice_is_in_the_log(facts):
    assert f"library set {loaded_set(facts)} " in facts["llm_log"]


def test_libraries_need_nothing_that_is_missing(facts):
    """No library, and no symbol version newer than the base's glibc and libstdc++."""
    assert facts.lines("unresolved") == []


def test_all_sets_come_from_the_binding_s_own_tree(facts, image):
    """Binding and library share struct layouts that nobody checks at run time."""
    versions = {(each["llama_cpp_python"], each["sdist_sha256"]) for each in sets(facts).values()}
    assert len(versions) == 1
    assert f"llama_cpp_python-{next(iter(versions))[0]}.dist-info" in facts.lines("wheels")


def test_model_matches_its_checksum(facts):
    assert facts.lines("model_sums")
    assert all(line.endswith(": OK") for line in facts.lines("model_sums"))


def test_model_belongs_to_root_and_is_read_only(facts):
    models = [line.split() for line in facts.lines("models") if line.endswith(".gguf")]
    assert len(models) == 1
    assert models[0][:3] in (["444", "root", "root"], ["644", "root", "root"])


def test_service_cannot_write_where_it_reads(host):
    """As the service's user: nothing under /opt/llamakiln or /etc/llm can be written."""
    found = host.run("runuser -u llm -- find /opt/llamakiln /etc/llm -writable ! -type l")
    assert found.stdout == ""
    assert found.rc == 0


def test_every_setting_in_llm_env_is_explained(facts):
    """A commented default for each setting, a sentence above it."""
    lines = [*facts["llm_env"].splitlines()]
    settings = [index for index, line in enumerate(lines) if re.match(r"#?\s?LLM_[A-Z_]+=", line)]
    assert len(settings) >= 5
    assert all(lines[index - 1].startswith("#") for index in settings)


def test_image_json_names_what_is_installed(facts, image):
    """The bill of the bake agrees with the node: model checksum, binding, base, library sets."""
    text = facts["image_json"]
    digest = facts["model_digests"].split()[0]
    base = dict(line.split("=", 1) for line in facts.lines("os_release") if "=" in line)
    assert digest in text
    assert next(iter(sets(facts).values()))["llama_cpp_python"] in text
    assert base["ID"].strip('"') in text
    assert base["VERSION_ID"].strip('"') in text
    assert all(name in text for name in sets(facts))


def test_llama_bench_explains_itself(facts):
    """The wrapper finds the set that fits this CPU."""
    assert facts.lines("bench_help")[-1] == "exit 0"
    assert "usage:" in facts["bench_help"]


def test_llama_bench_measures_the_model(host):
    """One prompt token row and one generated token: the binary runs on this CPU and reads this model."""
    done = host.run("/opt/llamakiln/bin/llama-bench -m /opt/llamakiln/models/*.gguf -p 8 -n 2 -r 1 -o json")
    assert done.rc == 0
    assert '"avg_ts"' in done.stdout


def test_kernels_we_changed_compute_what_they_should(host, facts):
    """scripts/libllama/patch.py, in the library set that serves, on this CPU."""
    program = "/opt/llamakiln/venv/bin/python -c %s %s"
    done = host.run(program, KERNELS.read_text(), f"/opt/llamakiln/lib/{loaded_set(facts)}")
    assert re.search(r"^\d{2,} ok, \d+ none, 0 WRONG$", done.stdout, re.M), done.stdout[-2000:] + done.stderr[-2000:]
    assert "none Attention" not in done.stdout
    assert done.rc == 0


def test_metrics_are_there_for_the_node_itself(host):
    """For a scraper on the node, past NGINX."""
    asked = host.run(
        "/opt/llamakiln/venv/bin/python -c %s",
        "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:8080/metrics').read().decode())",
    )
    assert "# TYPE" in asked.stdout
