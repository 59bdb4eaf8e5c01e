"""Holds real requests and answers against api/openapi.yaml."""
import functools
import json
import pathlib

import jsonschema
import yaml

FILE = pathlib.Path(__file__).resolve().parent.parent.parent / "api" / "openapi.yaml"


def _plain(node):
    """OpenAPI 3.0's `nullable` as JSON Schema says it."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _plain(value) for key, value in node.items()}
    if node.pop("nullable", False):
        return {"anyOf": [node, {"type": "null"}]}
    return node


@functools.cache
def document():
    return _plain(yaml.load(FILE.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def endpoints():
    """[(path, verb)], such as ("vm.info", "GET")."""
    return [(path.lstrip("/"), verb.upper()) for path, item in document()["paths"].items() for verb in item]


def resolve(node):
    while "$ref" in node:
        name = node["$ref"]
        node = document()
        for part in name.lstrip("#/").split("/"):
            node = node[part]
    return node


@functools.cache
def _validator(pointer):
    schema = {"$ref": pointer} if pointer.startswith("#/components") else json.loads(pointer)
    return jsonschema.Draft4Validator(schema, resolver=jsonschema.RefResolver("", document()))


def errors(schema, value):
    """What is wrong with `value`: [] or messages with their place."""
    validator = _validator(schema["$ref"] if "$ref" in schema else json.dumps(schema))
    return [f"/{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in validator.iter_errors(value)]


def check(verb, path, request, status, answer):
    """Raises AssertionError where an exchange is not as the document says."""
    item = document()["paths"].get("/" + path.split("?")[0])
    if item is None or verb.lower() not in item:
        return  # no such endpoint or verb: tests of those look themselves
    operation = item[verb.lower()]
    responses = operation["responses"]
    what = f"{verb} {path} answered {status}"
    response = responses.get(str(status)) or (responses.get("default") if status >= 400 else None)
    assert response is not None, f"{what}: api/openapi.yaml does not know that"
    content = resolve(response).get("content", {}).get("application/json")
    if content is None:
        assert answer is None, f"{what} with a body, which api/openapi.yaml does not know: {answer}"
    else:
        wrong = errors(content["schema"], answer)
        assert not wrong, f"{what}, not as api/openapi.yaml has it: {wrong[:5]}"
    if status < 300 and isinstance(request, dict) and "requestBody" in operation:
        wrong = errors(operation["requestBody"]["content"]["application/json"]["schema"], request)
        assert not wrong, f"{verb} {path} took what api/openapi.yaml does not allow: {wrong[:5]}"
