"""Each operation of a bridge's OpenAPI document with what schemathesis seldom comes upon: ids of other kinds, long and
foreign texts, other methods, bodies that are none. No answer may be a 5xx or one that the document does not have."""

import http.client
import json
import urllib.parse

from jsonschema import Draft202012Validator

METHODS = ["DELETE", "GET", "PATCH", "POST", "PUT"]
LONG = "x" * 5000
# As they stand in a path or a query.
TEXTS = [
    "nothing",
    "%C3%A9%E2%80%8B%F0%9F%A6%80",
    "%FF%FE",
    "%00",
    "%0D%0AX-Injected:%201",
    "..%2F..%2Fv1%2Fmodels",
    ".",
    "%20",
    "-1",
    "99999999999999999999999",
    "%7B%7D",
    LONG,
]
# As whole bodies: not JSON, no object, too deep.
BODIES = [
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"1",
    b"{",
    b'{"input": "\xff"}',
    b'{"input": "\\ud800"}',
    b'{"a": ' + b"[" * 2000 + b"]" * 2000 + b"}",
]
# An upload, and what its type is.
ROW = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"input": "SLOW 20 100"}}
PARTS = [
    b'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch',
    b'Content-Disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n' + json.dumps(ROW).encode(),
]
FORM = b"".join(b"--b\r\n" + part + b"\r\n" for part in PARTS) + b"--b--\r\n"
FORM_TYPE = "multipart/form-data; boundary=b"
# What stands in a path's `{id}`, by how the path begins.
OWN = [
    ("/v1/files", "file"),
    ("/v1/batches", "batch"),
    ("/v1/responses/{id}/cancel", "background"),
    ("/v1/responses", "response"),
    ("/v1/conversations", "conversation"),
    ("/v1/chat/completions", "completion"),
    ("/v1/models", "model"),
]
# Fields that name something.
IDS = {"previous_response_id", "conversation", "model", "prompt_cache_key"}
# In place of each field of a body.
VALUES = [None, True, -1, 1.5, 10**30, "", "\u0000", "é\u200b🦀", LONG, [], [[]], [None], {}, {"": {"": None}}]


class Walk:
    def __init__(self, base_url, key):
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(base_url).netloc, timeout=60)
        self.key = key
        self.document = json.loads(self.send("GET", "/openapi.json")[2])
        self.validators = {}
        self.requests = 0
        self.failures = []
        self.answered = set()

    def send(self, method, path, body=None, kind="application/json"):
        head = {"Authorization": "Bearer " + self.key}
        if body is not None:
            head["Content-Type"] = kind
        try:
            return self.told(method, path, body, head)
        except ConnectionError:
            # The bridge may have closed what was kept open; a fresh one it has to answer on.
            self.connection.close()
            return self.told(method, path, body, head)

    def told(self, method, path, body, head):
        self.connection.request(method, path, body, head)
        answer = self.connection.getresponse()
        return answer.status, answer.getheader("Content-Type") or "", answer.read()

    def made(self, path, body, kind="application/json"):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, _, answer = self.send("POST", path, body, kind)
        assert status == 200, (path, status, answer)
        return json.loads(answer)

    def ids(self):
        """One of each kind."""
        item = {"type": "message", "role": "user", "content": "x"}
        conversation = self.made("/v1/conversations", {"items": [item]})["id"]
        listed = json.loads(self.send("GET", f"/v1/conversations/{conversation}/items")[2])
        message = {"role": "user", "content": "x"}
        file = self.made("/v1/files", FORM, FORM_TYPE)["id"]
        return {
            "file": file,
            "batch": self.batch(file),
            "response": self.made("/v1/responses", {"input": "x"})["id"],
            "background": self.made("/v1/responses", {"input": "x", "background": True})["id"],
            "conversation": conversation,
            "item": listed["data"][0]["id"],
            "completion": self.made("/v1/chat/completions", {"messages": [message], "store": True})["id"],
            "model": json.loads(self.send("GET", "/v1/models")[2])["data"][0]["id"],
        }

    def batch(self, file):
        """One that has not ended."""
        body = {"input_file_id": file, "endpoint": "/v1/responses", "completion_window": "24h"}
        return self.made("/v1/batches", body)["id"]

    def check(self, method, template, path, body=None, kind="application/json"):
        """Sends it; the answer is the document's."""
        status, of, answer = self.send(method, path, body, kind)
        self.requests += 1
        if status < 300:
            self.answered.add((method, template))
        said = self.mistake(method, template, status, of.split(";")[0], answer)
        if said:
            self.failures.append(f"{method} {path[:200]} {(body or b'')[:200]!r}: {status}, {said}: {answer[:300]!r}")
        return status

    def mistake(self, method, template, status, kind, answer):
        if status >= 500:
            return "a server error"
        operation = self.document["paths"].get(template, {}).get(method.lower())
        if operation is None or template.count("{") and status == 404 and b'"unknown_url"' in answer:
            return None if 400 <= status < 500 and b'"error"' in answer else "not refused"
        response = operation["responses"].get(str(status))
        if response is None:
            return "no status of the document"
        form = response["content"].get(kind)
        if form is None:
            return f"no content of the document: {kind}"
        if kind != "application/json":
            return None
        place = (template, method, status)
        if place not in self.validators:
            schema = {**form["schema"], "components": self.document["components"]}
            self.validators[place] = Draft202012Validator(schema)
        errors = [error.message for error in self.validators[place].iter_errors(json.loads(answer))]
        return f"not the document's form: {errors[:3]}" if errors else None

    def paths(self, template, ids):
        """With every text and an id of each kind in each place."""
        if "{" not in template:
            return [template]
        found = [template.replace("{id}", text).replace("{item}", text) for text in TEXTS]
        found += [template.replace("{id}", one).replace("{item}", ids["item"]) for one in ids.values()]
        found += [template.replace("{id}", ids["conversation"]).replace("{item}", one) for one in ids.values()]
        return list(dict.fromkeys(found))

    def operation(self, method, template, operation, ids):
        own = next((ids[kind] for start, kind in OWN if template.startswith(start)), "")
        path = template.replace("{id}", own).replace("{item}", ids["item"])
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "query":
                for text in [*TEXTS, *ids.values(), "true", "1"]:
                    self.check(method, template, f"{path}?{parameter['name']}={text}")
        contents = operation.get("requestBody", {}).get("content", {})
        if "application/json" in contents:
            self.bodies(method, template, path, operation, contents["application/json"], ids)
        if "multipart/form-data" in contents:
            for body in [*BODIES, FORM[:-20], FORM]:
                self.check(method, template, path, body, FORM_TYPE)
        if template == "/v1/batches/{id}/cancel":
            self.check(method, template, path.replace(own, self.batch(ids["file"])))
        # Last: what is deleted is not found again.
        for path in self.paths(template, ids):
            self.check(method, template, path)
        # What becomes a socket answers nothing here.
        if (method, template) not in self.answered and "101" not in operation.get("responses", {}):
            self.failures.append(f"{method} {template}: nothing was answered but errors")

    def bodies(self, method, template, path, operation, content, ids):
        for body in BODIES:
            self.check(method, template, path, body)
        example = dict(content["example"])
        if "input_file_id" in example:
            example["input_file_id"] = ids["file"]
        plain = json.dumps(example).encode()
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "a"]:
            self.check(method, template, path, plain, kind)
        name = content["schema"]["$ref"].rsplit("/", 1)[1]
        dry = f"{path}?dry_run=true" if any(one["name"] == "dry_run" for one in operation["parameters"]) else path
        for field in self.document["components"]["schemas"][name]["properties"]:
            for value in [*VALUES, *(ids.values() if field in IDS else [])]:
                self.check(method, template, dry, json.dumps({**example, field: value}).encode())

    def run(self):
        ids = self.ids()
        for template, operations in self.document["paths"].items():
            for method, operation in operations.items():
                self.operation(method.upper(), template, operation, ids)
                if method == "delete":
                    # What is deleted, the next one wants.
                    ids = self.ids()
            path = template.replace("{id}", "nothing").replace("{item}", "nothing")
            for method in METHODS:
                if method.lower() not in operations:
                    status = self.check(method, template, path, b"{}")
                    if status != 405:
                        self.failures.append(f"{method} {path}: {status} is not 405")
        return self.failures
