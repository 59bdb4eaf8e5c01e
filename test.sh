#!/usr/bin/env bash
# All tests, or the layers named: ./test.sh [check] [unit] [asan] [tidy] [fuzz] [guest] [e2e]
#   check  format, length, arrows, documents             asan   unit and guest layers in build-asan/
#   unit   doctest programs in build/                   guest  bare-metal guests under the real vmmd
#   tidy   clang-tidy                                   e2e    API, snapshots and Linux guests over real sockets
#   fuzz   every fuzz target, 5 s each (20 s with CI=true)
# Installs what is missing with apt, builds, runs, and closes with a table. Layers that need /dev/kvm are skipped,
# loudly, where it cannot be opened.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
exec </dev/null
layers=" ${*:-check unit asan tidy fuzz guest e2e} "
for layer in $layers; do
  case $layer in check | unit | asan | tidy | fuzz | guest | e2e) ;; *)
    sed -n '2,8s/^# \?//p' "$0" >&2
    exit 2
    ;;
  esac
done
wants() { [[ $layers == *" $1 "* ]]; }

table=() passed=0 failed=0 skipped=0 started=$SECONDS

# record NAME SECONDS PASSED FAILED SKIPPED
record() {
  passed=$((passed + $3)) failed=$((failed + $4)) skipped=$((skipped + $5))
  table+=("$(printf '%-34s %6s s %7s %7s %8s' "$1" "$2" "$3" "$4" "$5")")
}

# step NAME COUNTER COMMAND…: COUNTER prints "passed failed skipped" afterwards; "one" counts the step itself.
step() {
  local name=$1 counter=$2 begin=$SECONDS status counts
  shift 2
  printf '\n=== %s\n' "$name"
  "$@"
  status=$?
  if [ "$counter" = one ] || ! counts=$($counter 2>/dev/null); then counts=$([ $status = 0 ] && echo 1 0 0 || echo 0 1 0); fi
  # A runner that fails without counting a failure has failed all the same.
  read -r good bad left_out <<<"$counts"
  [ $status = 0 ] || [ "$bad" -gt 0 ] || bad=1
  record "$name" $((SECONDS - begin)) "$good" "$bad" "$left_out"
  printf -- '--- %s: %s, %d s\n' "$name" "$([ $status = 0 ] && echo passed || echo FAILED)" $((SECONDS - begin))
  return $status
}

skip() {
  printf '\n=== %s: SKIPPED: %s\n' "$1" "$2"
  record "$1 (skipped)" 0 0 0 1
}

finish() {
  printf '\n%-34s %8s %7s %7s %8s\n' step time passed failed skipped
  printf '%s\n' "${table[@]}"
  [ -z "${kvm_reason:-}" ] || printf '\nNothing ran on KVM here:\n%s\n' "$kvm_reason"
  printf '\nin %d s\n' $((SECONDS - started))
  printf '%d passed, %d failed, %d skipped\n' $passed $failed $skipped
  [ $failed = 0 ] && [ $passed -gt 0 ]
  exit
}

build() { # build FOLDER MESON-OPTION…
  local folder=$1
  shift
  if [ ! -f "$folder/build.ninja" ]; then meson setup "$folder" "$@" || return; fi
  ninja -C "$folder"
}

build_fuzz() {
  if [ ! -f build-fuzz/build.ninja ]; then
    CXX=clang++-19 meson setup build-fuzz -Dfuzzing=true -Doptimization=1 -Db_sanitize=address,undefined -Db_lundef=false || return
  fi
  # Only the fuzz targets and what they link.
  ninja -C build-fuzz $(ninja -C build-fuzz -t targets all | sed -n 's|^\(tests/fuzz/fuzz-[a-z0-9_]*\):.*|\1|p')
}

unit() { meson test -C "$1" ${2:+--timeout-multiplier "$2"} --no-rebuild --suite unit --print-errorlogs; }
machines() { meson test -C "$1" ${2:+--timeout-multiplier "$2"} --no-rebuild --suite guest --logbase guest --print-errorlogs; }
count_machines() { scripts/count.py meson "$1/meson-logs/guest.junit.xml"; }
count_meson() { scripts/count.py meson "$1/meson-logs/testlog.junit.xml"; }

# run_pytest BUILD RESULTS PYTEST-ARGUMENT…
# In CI a test that fails is tried once more, and told of: a machine that others load stands still now and then, and
# one stall in some 800 tests is not the change's fault. At a developer's desk a failure is a failure.
run_pytest() {
  local folder=$1 results=$2
  shift 2
  rm -f "$results"
  VMMD_BUILD=$PWD/$folder /usr/bin/python3 -m pytest -q -rsR ${CI:+--reruns 1} --durations=5 -p no:cacheprovider \
    --junitxml="$results" "$@"
}

fuzz_seconds=$([ "${CI:-}" = true ] && echo 20 || echo 5)
count_fuzz() { awk '/^ok /{p++} /^FAIL /{f++} END{print p+0, f+0, 0}' build-fuzz/fuzz.txt; }
# In CI always the same way, so that a submission does not fail by another one's luck.
run_fuzz() { scripts/fuzz.sh "$fuzz_seconds" ${CI:+1} | tee build-fuzz/fuzz.txt; }

kvm_reason=$(scripts/kvm-check.sh 2>&1) || printf '\n*** %s\n*** The layers guest and e2e will be skipped.\n' "$kvm_reason"

printf '=== packages\n'
scripts/deps.sh || { record packages 0 0 1 0; finish; }

if wants check; then
  step "format and length" one scripts/check-format.sh
  step "include arrows" one scripts/check-arrows.py
fi
step "release build" one build build || finish
if wants check; then step "documents" one scripts/check-docs.py; fi
if wants unit; then step "unit" "count_meson build" unit build; fi
if wants guest; then
  if [ -n "$kvm_reason" ]; then skip "bare-metal guests" "no KVM"; else
    step "machines in process" "count_machines build" machines build
    step "bare-metal guests" "scripts/count.py pytest build/guest.xml" run_pytest build build/guest.xml -m guest tests/e2e
  fi
fi
if wants asan; then
  export LSAN_OPTIONS=suppressions=$PWD/tests/lsan.supp:print_suppressions=0
  if step "sanitizer build" one build build-asan --buildtype=plain -Doptimization=0 -Dcpp_args=-g1 -Db_sanitize=address,undefined -Dstatic_libs=false; then
    step "unit, sanitized" "count_meson build-asan" unit build-asan 10
    if [ -n "$kvm_reason" ]; then skip "bare-metal guests, sanitized" "no KVM"; else
      step "machines in process, sanitized" "count_machines build-asan" machines build-asan 10
      step "bare-metal guests, sanitized" "scripts/count.py pytest build-asan/guest.xml" \
        run_pytest build-asan build-asan/guest.xml -m guest tests/e2e
    fi
  fi
fi
if wants tidy; then step "clang-tidy" one scripts/tidy.py ${CI:+--quick}; fi
if wants fuzz; then
  if step "fuzz build" one build_fuzz; then step "fuzz, $fuzz_seconds s each" count_fuzz run_fuzz; fi
fi
if wants e2e; then
  if [ -n "$kvm_reason" ]; then skip "end to end" "no KVM"; elif step "Linux guest" one tests/guest/linux/build.sh; then
    step "end to end" "scripts/count.py pytest build/e2e.xml" run_pytest build build/e2e.xml -m "not guest" tests/e2e
  fi
fi
finish
