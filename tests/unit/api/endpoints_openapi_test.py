"""api/openapi.yaml and the table in api/endpoints.cpp name the same endpoints, with the same verbs, and agree on which are
not built."""
import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]


def table():
    """{path: (verb, built)} as the server has it."""
    source = (ROOT / "api/endpoints.cpp").read_text()
    source = source[source.index("kEndpoints = {"):source.index("\n};")]
    found = {path: (verb.lower(), True) for path, verb in re.findall(r'Endpoint\{"([^"]+)",\s*Verb::(\w+)', source)}
    found |= {path: ("put", True) for path in re.findall(r'\bcommand\("([^"]+)"', source)}
    found |= {path: ("put", False) for path in re.findall(r'\bmissing\("([^"]+)"', source)}
    return found


def specified():
    """The same as the specification has it."""
    spec = yaml.safe_load((ROOT / "api/openapi.yaml").read_text())
    found = {}
    for path, verbs in spec["paths"].items():
        (verb, operation), = verbs.items()
        found[path.removeprefix("/")] = (verb, set(operation["responses"]) != {"501", "default"})
    return found


def main():
    served, wanted = table(), specified()
    wrong = [f"{path}: served as {served.get(path)}, specified as {wanted.get(path)}"
             for path in sorted(served.keys() | wanted.keys()) if served.get(path) != wanted.get(path)]
    if len(served) < 30:
        wrong.append(f"only {len(served)} endpoints found in the table: is its notation another one now?")
    print("\n".join(wrong) or f"{len(served)} endpoints agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
