#!/usr/bin/env bash
# On the image: the `llm` user, the service, its Python environment, and the library sets, all owned by root.
set -euo pipefail
. /var/tmp/stage/scripts/lib.sh
home=/opt/llamakiln

getent passwd llm >/dev/null ||
  useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin llm

install -d -m 755 "$home"
cp -r /var/tmp/stage/service "$home/"
cp -r --preserve=links /var/tmp/stage/lib "$home/"  # equal files of the sets are one file

log "python environment"
# No pip in it: the packages were resolved, checked by hash and unpacked where the bake was started.
python3 -m venv --without-pip "$home/venv"
site=$("$home/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp -r /var/tmp/stage/site/. "$site/"
chown -R root:root "$home"
chmod -R u=rwX,go=rX "$home"

# A root-owned tree means no byte code is ever written at run time: do it now, for what a start imports.
cd "$home"
LLM_LIB_DIR=$home/lib "$home/venv/bin/python" -m service --help >/dev/null
"$home/venv/bin/python" -m compileall -q service "$site/llama_cpp" "$site/jinja2" "$site/waitress" "$site/prometheus_client"
log "llm user: $(id llm)"
