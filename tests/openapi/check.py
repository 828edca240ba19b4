"""Our own OpenAPI document: is it one, and does the bridge that $OPENAI_BASE_URL names do what it says?

usage: check.py SECONDS [schemathesis options…]      SECONDS are for all of it; schemathesis has what is left
"""

import json
import os
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

from openapi_spec_validator import OpenAPIV31SpecValidator
from walk import Walk

# What schemathesis has in any case.
LEAST_SECONDS = 15

HERE = Path(__file__).parent
CHECKS = [
    "no_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "wrong_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
    "use_after_free",
]


def main():
    seconds, *options = sys.argv[1:]
    until = time.monotonic() + float(seconds)
    url = urllib.parse.urljoin(os.environ["OPENAI_BASE_URL"], "/openapi.json")
    with urllib.request.urlopen(url, timeout=10) as answer:
        OpenAPIV31SpecValidator(json.load(answer)).validate()
    print("the document is valid OpenAPI 3.1", flush=True)
    walk = Walk(os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"])
    failures = walk.run()
    print(*failures, f"{walk.requests} requests walked, {len(failures)} failures", sep="\n", flush=True)
    command = [
        Path(sys.executable).with_name("schemathesis"),
        "--config-file",
        HERE / "schemathesis.toml",
        "run",
        url,
        "--checks",
        ",".join(CHECKS),
        "--max-time",
        str(max(int(until - time.monotonic()), LEAST_SECONDS)),
        # Several of them trip over a bug of CPython 3.11's parser.
        "--workers",
        "1",
        "--continue-on-failure",
        "--no-color",
        "--header",
        "Authorization: Bearer " + os.environ["OPENAI_API_KEY"],
        *options,
    ]
    hooks = {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE)}
    status = subprocess.run(command, env={**os.environ, **hooks}, check=False).returncode
    return 1 if failures else status


if __name__ == "__main__":
    sys.exit(main())
