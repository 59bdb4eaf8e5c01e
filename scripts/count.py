#!/usr/bin/python3
"""Reads what test runners leave behind and prints "passed failed skipped".

    count.py meson build/meson-logs/testlog.junit.xml   doctest programs, by doctest's own closing counts
    count.py pytest results.xml                         pytest's --junitxml
"""
import re
import sys
import xml.etree.ElementTree

DOCTEST = re.compile(r"test cases:\s+(\d+) \|\s+(\d+) passed \|\s+(\d+) failed \|\s+(\d+) skipped")


def meson(root):
    passed = failed = skipped = 0
    for case in root.iter("testcase"):
        if case.find("skipped") is not None:
            skipped += 1
            continue
        output = "".join(case.itertext())
        counts = DOCTEST.findall(output)
        for _, good, bad, left_out in counts:
            passed, failed, skipped = passed + int(good), failed + int(bad), skipped + int(left_out)
        broken = case.find("failure") is not None or case.find("error") is not None
        # A program that died, or was cut off by its time limit, counts as one failure whatever it had counted.
        if broken and not any(int(bad) for _, _, bad, _ in counts):
            failed += 1
        elif not counts and not broken:
            passed += 1
    return passed, failed, skipped


def pytest(root):
    suites = list(root.iter("testsuite"))
    total, bad, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "skipped"))
    errors = sum(int(suite.get("errors", 0)) for suite in suites)
    return max(0, total - bad - errors - skipped), bad + errors, skipped


def main():
    kind, path = sys.argv[1:]
    root = xml.etree.ElementTree.parse(path).getroot()
    print(*(meson if kind == "meson" else pytest)(root))


if __name__ == "__main__":
    main()
