#!/bin/bash
# A sweep on one rented machine, which may be taken away: what is finished goes to a bucket and comes back.
#
#   ./machine.sh sweep.yaml runs/sweep remote:bucket/sweep
#
# It needs Python 3.11 and rclone with a remote (S3, Google Cloud, Azure and most others). Run it again after the machine was
# taken away, on any other: it fetches what is finished and goes on from there.
set -euo pipefail
set -m  # else what runs in the background never sees an interrupt

config=${1:?the sweep, such as sweep.yaml}
out=${2:?the folder of the run}
bucket=${3:?where to keep it, as rclone names it, such as remote:bucket/sweep}
every=${SYNC_SECONDS:-300}

if ! command -v entoptic >/dev/null; then
  python3 -m venv "${VENV:-.venv}"
  # shellcheck disable=SC1091
  source "${VENV:-.venv}/bin/activate"
  pip install --quiet "${ENTOPTIC:-entoptic}"
fi

keep() {
  # A file that is being written is hidden and ends in .part; the lock names this machine.
  rclone copy "$out" "$bucket" --exclude '.*.part' --exclude .lock
}

mkdir -p "$out"
rclone copy "$bucket" "$out" || echo "nothing is in $bucket yet" >&2

entoptic see --config "$config" --out "$out" &
sweep=$!
# A machine that is taken away is told a moment before: the sweep stores what is finished.
trap 'kill -INT "$sweep" 2>/dev/null || true' INT TERM

while kill -0 "$sweep" 2>/dev/null; do
  for _ in $(seq "$every"); do
    kill -0 "$sweep" 2>/dev/null || break
    sleep 1
  done
  keep || echo "not copied to $bucket; tried again in $every s" >&2
done
code=0
wait "$sweep" || code=$?
keep
exit "$code"
