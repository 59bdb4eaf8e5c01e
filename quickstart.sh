#!/usr/bin/env bash
# Installs what is missing, builds vmmd and a Linux guest, and shows what vmmd is for: boot Linux over the API, pause,
# snapshot, kill -9, restore three clones at once from one directory, each counting on where the first one stopped,
# with disk, console, vsock and (as root) a network of its own.
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
names=(first clone1 clone2 clone3)
pids=()
# As root each VM gets a network namespace, so that all clones can have the one address that their guest knows.
network=
if [ "$(id -u)" = 0 ] && (: <>/dev/net/tun) 2>/dev/null && ip netns add "vmmd-$$-first" 2>/dev/null; then
  # In a chroot whose root is no mount point, `ip netns` makes namespaces that it cannot enter.
  if ip netns exec "vmmd-$$-first" true 2>/dev/null; then
    network=yes
    for name in "${names[@]:1}"; do ip netns add "vmmd-$$-$name"; done
  else
    ip netns del "vmmd-$$-first"
  fi
fi
# in_namespace NAME: $prefix runs a command where VM NAME has its network. (`ip netns exec` becomes that command.)
in_namespace() { if [ "$network" ]; then prefix=(ip netns exec "vmmd-$$-$1"); else prefix=(); fi; }
clean_up() {
  status=$?
  # Orderly first: that removes their sockets too.
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  if [ $status != 0 ]; then
    echo
    tail -n 5 "$work"/*.log "$work"/*.serial 2>/dev/null || true
  fi
  if [ "$network" ]; then
    for name in "${names[@]}"; do ip netns del "vmmd-$$-$name" 2>/dev/null || true; done
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
  in_namespace "$1"
  "${prefix[@]}" build/daemon/vmmd --api-socket "$work/$1.sock" --event-monitor "fd=$events" >"$work/$1.log" 2>&1 &
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

# ask NAME LINE: what the guest's agent answers to a line over vsock, by the socket that VM NAME has for it.
ask() {
  python3 - "$work/$1.vsock" "$2" <<'EOF'
import socket, sys
with socket.socket(socket.AF_UNIX) as guest:
    guest.settimeout(60)
    guest.connect(sys.argv[1])
    stream = guest.makefile("rw", newline="\n")
    stream.write("CONNECT 1234\n")
    stream.flush()
    if not stream.readline().startswith("OK "):
        sys.exit("the guest does not listen")
    stream.write(sys.argv[2] + "\n")
    stream.flush()
    print(stream.readline().strip())
EOF
}

# expect NAME LINE PATTERN: the answer, which has to match.
expect() {
  local got
  got=$(ask "$1" "$2") || die "$1 did not answer \"$2\" over vsock"
  [[ "$got" =~ $3 ]] || die "$1 answered \"$got\" to \"$2\""
  printf '%s' "$got"
}

last_tick() { grep -a -o '^tick [0-9]*' "$1" | tail -n 1; }

bold "4. Boot Linux over the API"
truncate -s 64M "$work/disk.img"
start_vmmd first
start=$(now_ms)
api first PUT vm.create "$(jq -n --arg guest "$guest" --arg work "$work" --arg network "$network" '{
  cpus: {boot_vcpus: 1, max_vcpus: 1}, memory: {size: 134217728},
  payload: {kernel: "\($guest)/vmlinux", initramfs: "\($guest)/initramfs.cpio",
            cmdline: "console=ttyS0 slowring0 quiet tick=200 serve=1234"},
  serial: {mode: "File", file: "\($work)/first.serial"},
  console: {mode: "File", file: "\($work)/first.console"},
  vsock: {cid: 3, socket: "\($work)/first.vsock"},
  disks: [{id: "data", path: "\($work)/disk.img", overlay: "memory"}]}
  + if $network == "" then {} else {net: [{tap: "vmmd0", ip: "192.168.249.1", mask: "255.255.255.0"}]} end')"
api first PUT vm.boot
note "vm.boot answered in $took; waiting for Linux"
wait_line "$work/first.serial" '^AGENT READY' 180 >/dev/null
boot_seconds=$(awk "BEGIN { printf \"%.1f\", ($(now_ms) - $start) / 1000 }")
note "Linux is up after $boot_seconds s and counts on its serial line:"
wait_line "$work/first.serial" '^tick 4' 60 >/dev/null
grep -a '^tick' "$work/first.serial" | sed 's/^/    /'
if [ "$network" ]; then expect first "net up eth0 192.168.249.2 24" "^net up" >/dev/null; fi
written=$(expect first "file write /dev/vda 1 0 16" "^ok")
note "it wrote 16 KiB to its disk, where vmmd keeps it in memory above the image; digest ${written#ok }"

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
      --arg console "$work/clone$n.console" --arg vsock "$work/clone$n.vsock" '{source_url: $snapshot, resume: true,
        overrides: {serial: {file: $serial}, console: {file: $console}, vsock: {socket: $vsock}}}')"
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
  note "clone $n is $(jq -r .state <<<"$answer") at \"$(last_tick "$work/clone$n.serial")\""
done

bold "7. What the clones have: vsock, disk, console, network"
for n in 1 2 3; do
  count=$(expect "clone$n" count '^count [0-9]+')
  read_back=$(expect "clone$n" "file check /dev/vda 1 0 16" "^$written\$")
  expect "clone$n" "file write /dev/vda $((n + 1)) 0 16" "^ok" >/dev/null
  expect "clone$n" "say /dev/hvc0 clone $n was here" "^put" >/dev/null
  note "clone $n answers over vsock (\"$count\"), has its disk as it was ($read_back) and writes its own to it"
done
for n in 1 2 3; do
  expect "clone$n" "file check /dev/vda $((n + 1)) 0 16" "^ok" >/dev/null
  wait_line "$work/clone$n.console" "clone $n was here" 60 >/dev/null
done
note "no clone met another's writes; the consoles' files have what each guest said"
if [ "$network" ]; then
  for n in 1 2 3; do
    in_namespace "clone$n"
    ping=$("${prefix[@]}" ping -c 1 -W 20 192.168.249.2) || die "clone $n does not answer a ping"
    note "clone $n answers a ping in its namespace: $(grep -o 'time=.*' <<<"$ping")"
  done
else
  note "no network: that needs root, or a running passt (docs/user-guide.md)"
fi

bold "Done"
note "booted Linux in $boot_seconds s, snapshotted it in $snapshot_took, killed it, and had three of it"
note "restored in $(sort -n "$work"/clone*.took | tail -n 1) at most, all from the same untouched directory."
note "Next: README.md has a tour; ./test.sh runs all tests."
