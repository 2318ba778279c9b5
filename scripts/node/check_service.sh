#!/usr/bin/env bash
# On the image: start what was installed and ask it a question through port 80, as a node's user would. Last proof before
# the image is cleaned; the boot tests repeat it from outside on fresh copies.
set -euo pipefail
. /var/tmp/stage/scripts/lib.sh
. /var/tmp/stage/bake.env

systemctl start llm.service nginx.service ||
  { journalctl --no-pager --unit llm.service --unit nginx.service --lines 40; die "the service does not start on the image"; }
journalctl --no-pager --unit llm.service --output cat | tail -n 5

ask() { curl --silent --show-error --fail-with-body --max-time 300 "$@"; }
ask http://127.0.0.1/readyz >/dev/null
page=$(ask http://127.0.0.1/)  # not into grep -q: it leaves at the first match, and curl fails on the closed pipe
grep -qi '<title>' <<<"$page" || die "port 80 does not serve the page"
answer=$(ask http://127.0.0.1/generate --json '{"prompt": "What is Llamakiln?", "max_tokens": 24, "temperature": 0}' 2>/dev/null ||
  ask http://127.0.0.1/generate -H 'Content-Type: application/json' -d '{"prompt": "What is Llamakiln?", "max_tokens": 24, "temperature": 0}')
python3 -c 'import json, sys; body = json.loads(sys.argv[1]); assert body["text"].strip(), body; print("answer:", body["text"])' "$answer"

# The service measures itself in its idle time. Baked on the target's shape this saves every node the same work; on any
# other CPU a node finds that it is not its own and measures again.
for _ in $(seq 60); do
  ! ls /var/lib/llm/steps-*.json >/dev/null 2>&1 || break
  sleep 2
done
journalctl --no-pager --unit llm.service --output cat | grep "steps measured" || log "steps were not measured within 2 minutes"

systemctl stop llm.service nginx.service
