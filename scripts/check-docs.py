#!/usr/bin/python3
"""Holds the documents to what they speak of. Needs a build (build/, or VMMD_BUILD).

- Every relative link in a *.md leads to a file, and its #anchor to a heading there.
- Every option and command of vmmd and vmm-remote that a document names is in their --help.
- The user guide's table of events has every event that the daemon publishes, and no other.
- Every test that docs/regressions.md names is there.
- docs/api.md has every endpoint of api/openapi.yaml, and its examples are exchanges that the specification allows.
"""
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("VMMD_BUILD", ROOT / "build"))
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
import openapi  # noqa: E402

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
CODE = re.compile(r"^```\w*\n(.*?)^```$|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"^```http\n(GET|PUT) /api/v1/(\S+)\n(.*?)\n?^(\d{3})\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def documents():
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.md"], cwd=ROOT, check=True,
                           capture_output=True, text=True).stdout.split()
    return {pathlib.Path(name): (ROOT / name).read_text() for name in names if (ROOT / name).exists()}


def anchors(text):
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def wrong_links(name, text):
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        if not file.exists():
            yield f"{name}: the link {target} leads nowhere"
        elif anchor and anchor not in anchors(file.read_text()):
            yield f"{name}: {path or name} has no heading #{anchor}"


def help_of(*command):
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def subcommands(text):
    listed = text.partition("Subcommands:\n")[2].split("\n\n")[0]
    return re.findall(r"^  ([a-z][a-z-]+) ", listed, re.MULTILINE)


def remote_help(*words):
    """{command: its options}, all the way down; "" is vmm-remote itself."""
    text = help_of(BUILD / "remote" / "vmm-remote", *words)
    found = {" ".join(words): set(OPTION.findall(text))}
    for word in subcommands(text):
        found |= remote_help(*words, word)
    return found


def command_lines(code):
    """The commands in a piece of code, with continuation lines joined and split at pipes and the like."""
    for line in re.sub(r"\\\n\s*", " ", code).splitlines():
        yield from re.split(r"\|\|?|&&|;|\$\(| & ", line.split(" #")[0])


def wrong_commands(name, text, daemon, remote):
    everything = daemon.union(*remote.values())
    for block, inline in CODE.findall(text):
        if not block and re.fullmatch(r"--[a-z-]+.*", inline) and (name.parts[0] == "docs" or len(name.parts) == 1):
            for option in OPTION.findall(inline.split(" ")[0].split("=")[0]):
                if option not in everything:
                    yield f"{name}: neither vmmd nor vmm-remote has {option}"
        for line in command_lines(block or inline):
            words = re.sub(r"'[^']*'|\"[^\"]*\"", "X", line).split()
            program = next((i for i, word in enumerate(words) if word.rsplit("/", 1)[-1] in ("vmmd", "vmm-remote")), None)
            if program is None or any("=" not in word for word in words[:program] if not word.startswith("Exec")):
                continue
            options = [option for word in words[program + 1:] for option in OPTION.findall(word.split("=")[0])]
            if words[program].endswith("vmmd"):
                known, what = daemon, "vmmd"
            else:
                rest = re.sub(r"--api-socket \S+", "", " ".join(words[program + 1:])).split()
                plain = [word for word in rest if re.fullmatch(r"[a-z][a-z-]*", word)]
                command = max((c for c in remote if c and c.split() == plain[:len(c.split())]), key=len, default="")
                if not command and plain:
                    yield f"{name}: vmm-remote has no command \"{plain[0]}\": {line.strip()}"
                known, what = remote[command] | remote[""], f"vmm-remote {command}"
            yield from (f"{name}: {what} has no {option}: {line.strip()}" for option in options if option not in known)


def wrong_events(text):
    """Both are (source, event)."""
    published = set()
    for path in (ROOT / "daemon").rglob("*.cpp"):
        published |= set(re.findall(r'(?:publish\(|announce\(\w+, )\s*"(\w+)",\s*"([\w-]+)"', path.read_text()))
    table = text.partition("| source | events |\n|---|---|\n")[2].split("\n\n")[0]
    told = set()
    for row in table.splitlines():
        source, events = row.strip("| ").split(" | ", 1)
        # What stands in brackets are an event's properties.
        told |= {(source.strip("`"), event) for event in re.findall(r"`([\w-]+)`", re.sub(r"\([^)]*\)", "", events))}
    yield from (f"docs/user-guide.md: the table of events lacks {event} of {source}" for source, event in published - told)
    yield from (f"docs/user-guide.md: nothing publishes {event} of {source}" for source, event in told - published)


def wrong_examples(text):
    examples = EXAMPLE.findall(text)
    for verb, path, request, status, answer in examples:
        try:
            openapi.check(verb, path, json.loads(request) if request.strip() else None, int(status),
                          json.loads(answer) if answer.strip() else None)
        except (AssertionError, ValueError) as error:
            yield f"docs/api.md: {verb} {path}: {error}"
    if len(examples) != text.count("```http"):
        yield "docs/api.md: an http example is not VERB PATH, body, empty line, status, answer"
    succeeded = {(path, verb) for verb, path, _, status, _ in examples if status.startswith("2")} | {("events", "GET")}
    not_built = text[text.index("## Not built"):]
    for path, verb in openapi.endpoints():
        if (path, verb) not in succeeded and f"`{path}`" not in not_built:
            yield f"docs/api.md: {verb} {path} is missing"


def missing_tests(text):
    """`test_…` of tests/e2e, or the name of a doctest case in quotes, in the tables' last column."""
    files = [*(ROOT / "tests" / "e2e").glob("*.py"), *(ROOT / "tests").glob("*/**/*_test.cpp")]
    # A long name goes over two lines, as two literals.
    there = re.sub(r'"\n\s*"', "", "\n".join(file.read_text() for file in files))
    for row in re.findall(r"^\|.*\|(.*)\|$", text, re.MULTILINE):
        for function, case in re.findall(r'`(test_\w+)`|"([^"]+)"', row):
            if (f"def {function}(" if function else f'"{case}"') not in there:
                yield f"docs/regressions.md: there is no test {function or case}"


def main():
    texts = documents()
    daemon, remote = set(OPTION.findall(help_of(BUILD / "daemon" / "vmmd"))), remote_help()
    wrong = []
    for name, text in texts.items():
        wrong += wrong_links(name, text)
        wrong += wrong_commands(name, text, daemon, remote)
    wrong += wrong_events(texts[pathlib.Path("docs/user-guide.md")])
    wrong += missing_tests((ROOT / "docs" / "regressions.md").read_text())
    wrong += wrong_examples((ROOT / "docs" / "api.md").read_text())
    print("\n".join(wrong) or f"{len(texts)} documents agree with the programs and the specification")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
