#!/usr/bin/env bash
# Format (clang-format-19) and length of every source file: past 500 lines look for the second idea in it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
status=0
mapfile -t sources < <(git ls-files -co --exclude-standard '*.h' '*.cpp' '*.c')
printf '%s\0' "${sources[@]}" | xargs -0 -r clang-format-19 --dry-run -Werror 2>&1 | grep -E 'error:' | head -n 40 && status=1
mapfile -t all < <(git ls-files -co --exclude-standard '*.h' '*.cpp' '*.c' '*.S' '*.py' '*.sh' '*.build' '*.proto')
for file in "${all[@]}"; do
  [ -f "$file" ] || continue
  lines=$(wc -l <"$file")
  if [ "$lines" -gt 500 ]; then
    echo "$file: $lines lines (500 at most)"
    status=1
  fi
done
[ $status = 0 ] && echo "${#all[@]} files in format"
exit $status
