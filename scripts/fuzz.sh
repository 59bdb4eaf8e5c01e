#!/usr/bin/env bash
# fuzz.sh SECONDS [SEED]: runs every libFuzzer target in build-fuzz/ that long, as many at a time as there are CPUs.
# The corpus grows under build-fuzz/corpus/. Prints one line a target; a crash's output and input are kept.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=$1
seed=${2:-0} # 0: another each time
mkdir -p build-fuzz/corpus build-fuzz/crashes

run_one() {
  local program=$1 name=${1##*/fuzz-} log=build-fuzz/crashes/${1##*/}.log seeds=()
  mkdir -p "build-fuzz/corpus/$name"
  [ -d "tests/fuzz/corpus/$name" ] && seeds=("tests/fuzz/corpus/$name")
  if "$program" -max_total_time="$seconds" -seed="$seed" -timeout=25 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="build-fuzz/crashes/$name-" "build-fuzz/corpus/$name" "${seeds[@]}" >"$log" 2>&1 </dev/null; then
    printf 'ok   %-24s %s runs\n' "$name" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
    rm -f "$log"
  else
    printf 'FAIL %-24s see %s\n' "$name" "$log"
    grep -E 'SUMMARY|ERROR|artifact|Test unit written' "$log" | head -n 6
    return 1
  fi
}
export -f run_one
export seconds seed
mapfile -t programs < <(find build-fuzz/tests/fuzz -maxdepth 1 -name 'fuzz-*' -type f -perm -u+x | sort)
[ ${#programs[@]} -gt 0 ] || { echo "no fuzz targets are built"; exit 1; }
printf '%s\n' "${programs[@]}" | xargs -P "$(nproc)" -I{} bash -c 'run_one {}'
