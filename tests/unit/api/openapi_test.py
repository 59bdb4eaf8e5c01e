"""api/openapi.yaml and the C++ field tables describe the same configuration.

The sample in config_samples.h has every field of the tables (config_json_test.cpp holds that). Here every field of the
sample is in the schema and every field of the schema is in the sample, with a value that the schema allows.
"""
import json
import pathlib
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}


def check(spec, schema, value, where, wrong):
    while "$ref" in schema or "allOf" in schema:
        ref = schema["$ref"] if "$ref" in schema else schema["allOf"][0]["$ref"]
        schema = spec["components"]["schemas"][ref.rsplit("/", 1)[1]]
    if type(value) is not TYPES[schema["type"]]:
        wrong.append(f"{where}: {value!r} is no {schema['type']}")
    elif schema["type"] == "object":
        properties = schema["properties"]
        if schema.get("additionalProperties") is not False:
            wrong.append(f"{where}: allows unknown fields")
        wrong += [f"{where}/{name}: not in openapi.yaml" for name in value.keys() - properties.keys()]
        if not where.endswith("rate_limiter_config"):  # its two halves are in several places of the sample
            optional_in_sample = {"one_time_burst"}
            wrong += [f"{where}/{name}: in openapi.yaml only"
                      for name in properties.keys() - value.keys() - optional_in_sample]
        wrong += [f"{where}/{name}: required twice over" for name in schema.get("required", []) if name not in value]
        for name in value.keys() & properties.keys():
            check(spec, properties[name], value[name], f"{where}/{name}", wrong)
    elif schema["type"] == "array":
        for index, item in enumerate(value):
            check(spec, schema["items"], item, f"{where}/{index}", wrong)
    elif schema["type"] == "integer":
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            wrong.append(f"{where}: {value} is out of range")
    elif "enum" in schema and value not in schema["enum"]:
        wrong.append(f"{where}: {value} is not in {schema['enum']}")


def main():
    spec = yaml.safe_load((ROOT / "api/openapi.yaml").read_text())
    sample = (ROOT / "tests/unit/api/config_samples.h").read_text()
    config = json.loads(sample[sample.index('R"(') + 3:sample.index(')";')])
    wrong = []
    check(spec, {"$ref": "#/components/schemas/VmConfig"}, config, "", wrong)
    print("\n".join(wrong) or "openapi.yaml and the sample agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
