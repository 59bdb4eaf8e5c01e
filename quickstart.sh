#!/usr/bin/env bash
# Installs what is missing, builds vmmd and a Linux guest, and shows what vmmd is for: boot Linux over the API, pause,
# snapshot, kill -9, restore three clones at once from one directory, each counting on where the first one stopped and
# answering over a vsock socket of its own.
# Asks nothing and leaves nothing running. A second run installs and rebuilds nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec </dev/null

bold() { [ -t 1 ] && printf '\n\033[1m%s\033[0m\n' "$*" || printf '\n%s\n' "$*"; }
note() { printf '  %s\n' "$*"; }
die() { printf '\nquickstart: %s\n' "$*" >&2; exit 1; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }

scripts/kvm-check.sh || exit 1

bold "1. Packages"
scripts/deps.sh quickstart || exit 1
note "all there"

bold "2. Build vmmd (release, in build/; the first time takes a few minutes)"
if [ ! -f build/build.ninja ]; then
  mkdir -p build
  meson setup build >build/quickstart.log 2>&1 ||
    { tail -n 20 build/quickstart.log; die "meson setup failed (build/quickstart.log)"; }
fi
ninja -C build 2>&1 | tee -a build/quickstart.log |
  awk '/^\[[0-9]+\/[0-9]+\]/ { if (++n % 40 == 0) { print "  " $1; fflush() } next } /error|FAILED/ { print; fflush() }' ||
  die "the build failed (build/quickstart.log)"
note "$(build/daemon/vmmd --version)"

bold "3. Build the Linux guest (once; cached in ${XDG_CACHE_HOME:-$HOME/.cache}/vmmd)"
guest=$(tests/guest/linux/build.sh | tail -n 1)
note "$guest"

work=$(mktemp -d "${TMPDIR:-/tmp}/vmmd-quickstart.XXXXXX")
pids=()
clean_up() {
  status=$?
  # Orderly first: that removes their sockets too.
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  if [ $status != 0 ]; then
    echo
    tail -n 5 "$work"/*.log "$work"/*.serial 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# api NAME VERB ENDPOINT [BODY]: the answer in $answer, its time in $took.
api() {
  took=$(curl -sS --fail-with-body --max-time 60 --unix-socket "$work/$1.sock" -X "$2" -o "$work/$1.answer" \
    -w '%{time_total}' ${4:+-H 'Content-Type: application/json' -d "$4"} "http://localhost/api/v1/$3") ||
    die "$3: $(cat "$work/$1.answer" 2>/dev/null)"
  took="$(awk "BEGIN { printf \"%.1f\", $took * 1000 }") ms"
  answer=$(cat "$work/$1.answer" 2>/dev/null || true)
}

# start_vmmd NAME: returns once it serves, which the first line of its event monitor says.
start_vmmd() {
  local events line
  mkfifo "$work/$1.events"
  exec {events}<>"$work/$1.events"
  build/daemon/vmmd --api-socket "$work/$1.sock" --event-monitor "fd=$events" >"$work/$1.log" 2>&1 &
  pids+=($!)
  IFS= read -r -t 30 -u "$events" line || die "vmmd did not start: $(cat "$work/$1.log")"
  exec {events}>&-
}

# wait_line FILE PATTERN SECONDS: prints the first matching line.
wait_line() {
  local line
  line=$(timeout "$3" tail -n +1 -F "$1" 2>/dev/null | grep -m 1 -a -E "$2") || true
  [ -n "$line" ] || die "the guest did not say \"$2\" within $3 s"
  printf '%s' "${line%$'\r'}"
}

# ask_guest SOCKET: what the guest says on its vsock port 1234.
ask_guest() {
  timeout 30 python3 - "$1" <<'PYTHON' || die "the guest does not answer on $1"
import socket, sys
with socket.socket(socket.AF_UNIX) as stream:
    stream.connect(sys.argv[1])
    stream.sendall(b"CONNECT 1234\n")
    connected, said = stream.makefile().read().splitlines()
    assert connected.startswith("OK ")
    print(said)
PYTHON
}

last_tick() { grep -a -o '^tick [0-9]*' "$1" | tail -n 1; }

bold "4. Boot Linux over the API"
start_vmmd first
start=$(now_ms)
api first PUT vm.create "$(jq -n --arg guest "$guest" --arg serial "$work/first.serial" --arg vsock "$work/first.vsock" '{
  cpus: {boot_vcpus: 1, max_vcpus: 1}, memory: {size: 134217728},
  payload: {kernel: "\($guest)/vmlinux", initramfs: "\($guest)/initramfs.cpio",
            cmdline: "console=ttyS0 slowring0 quiet tick=200 vsock=1234"},
  serial: {mode: "File", file: $serial}, vsock: {cid: 3, socket: $vsock}}')"
api first PUT vm.boot
note "vm.boot answered in $took; waiting for Linux"
wait_line "$work/first.serial" '^AGENT READY' 180 >/dev/null
boot_seconds=$(awk "BEGIN { printf \"%.1f\", ($(now_ms) - $start) / 1000 }")
note "Linux is up after $boot_seconds s and counts on its serial line:"
wait_line "$work/first.serial" '^tick 4' 60 >/dev/null
grep -a '^tick' "$work/first.serial" | sed 's/^/    /'

bold "5. Pause, snapshot, kill -9"
api first PUT vm.pause
note "vm.pause: $took"
api first PUT vm.snapshot "{\"destination_url\": \"file://$work/snapshot\"}"
snapshot_took=$took
note "vm.snapshot: $took"
stopped_at=$(last_tick "$work/first.serial")
kill -9 "${pids[0]}"
wait "${pids[0]}" 2>/dev/null || true
pids=()
note "killed; it had come to \"$stopped_at\". What it left:"
# Sizes as they are on disk: zero pages of memory are holes.
(cd "$work/snapshot" && ls -ls --block-size=K | sed '1d; s/^/    /')

bold "6. Three clones at once from that directory"
for n in 1 2 3; do start_vmmd "clone$n"; done
restores=()
for n in 1 2 3; do
  (
    api "clone$n" PUT vm.restore "$(jq -n --arg snapshot "file://$work/snapshot" --arg serial "$work/clone$n.serial" \
      --arg vsock "$work/clone$n.vsock" --argjson cid $((3 + n)) '{source_url: $snapshot, resume: true,
        overrides: {serial: {mode: "File", file: $serial}, vsock: {cid: $cid, socket: $vsock}}}')"
    echo "$took" >"$work/clone$n.took"
  ) &
  restores+=($!)
done
for restore in "${restores[@]}"; do wait "$restore" || die "a clone was not restored"; done
for n in 1 2 3; do
  first=$(wait_line "$work/clone$n.serial" '^tick [0-9]+' 60)
  [ "${first#tick }" -ge "${stopped_at#tick }" ] || die "clone $n began at \"$first\", before \"$stopped_at\""
  note "clone $n: vm.restore answered in $(cat "$work/clone$n.took"), goes on with \"$first\""
done
for n in 1 2 3; do
  wait_line "$work/clone$n.serial" "^tick $((${stopped_at#tick } + 5))" 60 >/dev/null
  api "clone$n" GET vm.info
  said=$(ask_guest "$work/clone$n.vsock")
  note "clone $n is $(jq -r .state <<<"$answer") at \"$(last_tick "$work/clone$n.serial")\", and over vsock it says \"$said\""
done

bold "Done"
note "booted Linux in $boot_seconds s, snapshotted it in $snapshot_took, killed it, and had three of it"
note "restored in $(sort -n "$work"/clone*.took | tail -n 1) at most, all from the same untouched directory."
note "Next: README.md has a tour; ./test.sh runs all tests."
