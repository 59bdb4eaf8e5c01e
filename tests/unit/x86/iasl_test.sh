#!/bin/sh
# Every table that acpi_dump writes must disassemble, and what comes out must compile to the same bytes:
# iasl reads package lengths, descriptors and names more strictly than any guest.
set -eu
dump=$1
command -v iasl >/dev/null || { echo "iasl is missing: apt install acpica-tools"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$dump" "$work"
tables=0
for table in "$work"/*/*.dat; do
  base=${table%.dat}
  (cd "$(dirname "$table")" && iasl -d "$(basename "$table")") >"$base.log" 2>&1 ||
    { echo "FAIL: iasl -d $table"; cat "$base.log"; exit 1; }
  if grep -E 'Could not|Error|Invalid|Incorrect checksum' "$base.log"; then
    echo "FAIL: iasl -d $table complains"; cat "$base.log"; exit 1
  fi
  # -oa: no optimisation, so that the bytes can be compared.
  iasl -oa -p "${base}_again" "$base.dsl" >"$base.log" 2>&1 ||
    { echo "FAIL: iasl $base.dsl"; cat "$base.log" "$base.dsl"; exit 1; }
  # Header bytes 28..35 name the compiler, byte 9 is the checksum over them.
  if ! cmp -s "$table" "${base}_again.aml"; then
    different=$(cmp -l "$table" "${base}_again.aml" | awk '$1 != 10 && ($1 < 29 || $1 > 36)' | wc -l)
    size=$(stat -c %s "$table") again=$(stat -c %s "${base}_again.aml")
    if [ "$different" -ne 0 ] || [ "$size" -ne "$again" ]; then
      echo "FAIL: $table compiles to other bytes ($size, $again; $different differ)"
      cat "$base.dsl"; exit 1
    fi
  fi
  grep -E '[0-9]+ Warnings' "$base.log" | grep -v ' 0 Warnings' || true
  tables=$((tables + 1))
done
echo "$tables tables disassemble and compile to the same bytes"
[ "$tables" -ge 30 ]
