#!/bin/sh
# Runs the DSDT's methods in ACPICA's own interpreter, the one that Linux has. Every byte of a simulated
# register reads as the value given with -fv: the event selector.
set -eu
dump=$1
command -v acpiexec >/dev/null || { echo "acpiexec is missing: apt install acpica-tools"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$dump" "$work"

run() { # machine, fill value, command
  (cd "$work/$1" && timeout 60 acpiexec -fv "$2" -b "$3" DSDT.dat FACP.dat </dev/null 2>&1) >"$work/log"
}
# Sorted: acpiexec delivers each notification on a thread of its own, in any order.
notified() { sed -n 's/.*Device Notify on \[\([A-Z]*\)\].*Value \(0x[0-9A-F]*\).*/\1=\2/p' "$work/log" | sort | xargs; }
expect() { # what, expected, got
  [ "$2" = "$3" ] || { echo "FAIL: $1: expected '$2', got '$3'"; cat "$work/log"; exit 1; }
}

for events in "0:" "1:PWRB=0x80" "2:VGEN=0x80" "3:PWRB=0x80 VGEN=0x80" "4:"; do
  run usual "${events%%:*}" 'execute \_SB.GED._EVT 5'
  expect "events ${events%%:*}" "${events#*:}" "$(notified)"
done
run small 3 'execute \_SB.GED._EVT 5'
expect "events of a machine without generation id" "PWRB=0x80" "$(notified)"
run big 0 'execute \_SB.PCI0._PRT'
expect "_PRT entries" 1 "$(grep -c 'Contains 32 Elements' "$work/log")"
expect "integers in _PRT" 128 "$(grep -c 'Integer\] = ' "$work/log")"
run big 0 'execute \_SB.VGEN.ADDR'
expect "generation id address" "3FFFF000 00000001" \
  "$(sed -n 's/.*Integer\] = 0*\([0-9A-F]\{8\}\)$/\1/p' "$work/log" | xargs)"
run usual 0 'execute \_S5'
expect "_S5 sleep type" 1 "$(grep -c 'Integer\] = 0000000000000005' "$work/log")"
echo "GED, _PRT, VM generation id and _S5 evaluate as they should"
