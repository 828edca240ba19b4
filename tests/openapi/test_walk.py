"""The walk finds what is wrong."""

import json
import unittest

from walk import Walk

STATUS = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
ERROR = {"type": "object", "required": ["error"]}
DOCUMENT = {
    "components": {"schemas": {"Status": STATUS, "Error": ERROR}},
    "paths": {
        "/state": {
            "get": {
                "responses": {
                    "200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}}},
                    "404": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}},
                }
            }
        }
    },
}


class Told(Walk):
    """Of a bridge that answers each method so, and others as it must."""

    def __init__(self, **answers):
        self.answers = answers
        super().__init__("http://localhost:1/v1", "key")

    def send(self, method, path, body=None, kind="application/json"):
        if path == "/openapi.json":
            return 200, "application/json", json.dumps(DOCUMENT).encode()
        refused = (405, "application/json", {"error": {"code": "method_not_supported"}})
        status, of, answer = self.answers.get(method, refused)
        return status, of, json.dumps(answer).encode()

    def ids(self):
        return {"item": "item"}


class WalkTest(unittest.TestCase):
    def failures(self, status=200, kind="application/json", answer=None, **answers):
        return Told(GET=(status, kind, answer or {"status": "ok"}), **answers).run()

    def test_what_is_right_is_no_failure(self):
        self.assertEqual(self.failures(), [])

    def test_what_the_document_does_not_have_is_one(self):
        for wrong, said in [
            (self.failures(500), "a server error"),
            (self.failures(418), "no status of the document"),
            (self.failures(404), "not the document's form"),
            (self.failures(kind="text/plain"), "no content of the document"),
            (self.failures(answer={"status": 1}), "not the document's form"),
            (self.failures(404, answer={"error": {}}), "nothing was answered but errors"),
        ]:
            self.assertTrue(any(said in failure for failure in wrong), (said, wrong))

    def test_another_method_is_refused(self):
        taken = self.failures(PUT=(200, "application/json", {"status": "ok"}))
        self.assertTrue(any("not refused" in failure for failure in taken), taken)
        self.assertTrue(any("is not 405" in failure for failure in taken), taken)


if __name__ == "__main__":
    unittest.main()
