#!/usr/bin/env bash
# A fleet from one snapshot: N daemons with a socket, a serial log and a VM each, all running on the same directory,
# which nobody writes to. Needs vmmd and vmm-remote, nothing else; waits for events and answers, never for time.
#
#   examples/fleet.sh SNAPSHOT_DIRECTORY [N]          N is 8 unless given
#   VMMD=… VMM_REMOTE=… examples/fleet.sh …           other binaries than those of build/
set -euo pipefail
[ $# -ge 1 ] && [ $# -le 2 ] || { sed -n '2,6s/^# \?//p' "$0" >&2; exit 2; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
vmmd=${VMMD:-$root/build/daemon/vmmd}
remote=${VMM_REMOTE:-$root/build/remote/vmm-remote}
snapshot=$(realpath -- "$1")
count=${2:-8}
[[ $count =~ ^[1-9][0-9]*$ ]] || { echo "fleet: \"$count\" is not a number of VMs" >&2; exit 2; }

work=$(mktemp -d "${TMPDIR:-/tmp}/fleet.XXXXXX") # short: a socket's path has at most 107 bytes
pids=()
stop_all() {
  status=$?
  # SIGTERM is the orderly end: the VM stops, the socket goes, the exit code is 0.
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" || status=1; done
  [ $status = 0 ] || tail -n 5 "$work"/*.log >&2 || true
  rm -rf "$work"
  exit $status
}
trap stop_all EXIT
trap 'exit 130' INT TERM

# 1. Start them all. Each one's first event says that it serves its socket.
monitors=()
for ((n = 1; n <= count; n++)); do
  mkfifo "$work/$n.events"
  exec {monitor}<>"$work/$n.events"
  "$vmmd" --api-socket "$work/$n.sock" --event-monitor "fd=$monitor" >"$work/$n.log" 2>&1 &
  pids+=($!)
  monitors+=("$monitor")
done
for monitor in "${monitors[@]}"; do
  IFS= read -r -t 60 -u "$monitor" _ || { echo "fleet: a vmmd did not start" >&2; exit 1; }
  exec {monitor}>&-
done

# 2. Restore them all at once. What differs from the snapshot's configuration is an override.
restores=()
for ((n = 1; n <= count; n++)); do
  "$remote" --api-socket "$work/$n.sock" restore "source_url=file://$snapshot,resume=true" \
    --overrides "{\"serial\": {\"mode\": \"File\", \"file\": \"$work/$n.serial\"}}" &
  restores+=($!)
done
for restore in "${restores[@]}"; do wait "$restore" || { echo "fleet: a VM was not restored" >&2; exit 1; }; done

# 3. Use them: here, wait until each has said a line on its own serial port. tail sleeps until the file grows.
for ((n = 1; n <= count; n++)); do
  "$remote" --api-socket "$work/$n.sock" wait --state Running --timeout 60
  line=$(timeout 60 tail -n +1 -F "$work/$n.serial" 2>/dev/null | grep -a -m 1 .) || true
  [ -n "$line" ] || { echo "fleet: VM $n said nothing for a minute" >&2; exit 1; }
  echo "VM $n (process ${pids[n - 1]}) says: ${line%$'\r'}"
done

# 4. Stop them all.
for ((n = 1; n <= count; n++)); do "$remote" --api-socket "$work/$n.sock" shutdown-vmm; done
for pid in "${pids[@]}"; do wait "$pid"; done
pids=()
echo "$count VMs ran from $snapshot and have ended"
