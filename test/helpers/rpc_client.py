"""A JSON-RPC client of Python's standard library that knows nothing of qmpvault: what it may call, rpc.discover tells it.

Reads one call per line ([method, params]) from stdin, and writes {"result": ...} or {"error": ...} for each.
"""
import itertools
import json
import socket
import sys


class Client:
    def __init__(self, path):
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(30)
        self.connection.connect(path)
        self.stream = self.connection.makefile("rw", encoding="utf-8")
        self.ids = itertools.count(1)
        self.notifications = []

    def call(self, method, params):
        request = {"jsonrpc": "2.0", "id": next(self.ids), "method": method, "params": params}
        self.stream.write(json.dumps(request) + "\n")
        self.stream.flush()
        while True:
            line = self.stream.readline()
            if not line:
                raise EOFError("the server has ended the connection")
            message = json.loads(line)
            if message.get("id") == request["id"]:
                return message
            self.notifications.append(message)


def check(described, params):
    """What a generic client can know before it asks."""
    names = {param["name"] for param in described["params"]}
    needed = {param["name"] for param in described["params"] if param.get("required")}
    assert set(params) <= names, f"{described['name']} takes {names}"
    assert needed <= set(params), f"{described['name']} needs {needed}"


def main(path):
    client = Client(path)
    document = client.call("rpc.discover", {})["result"]
    methods = {method["name"]: method for method in document["methods"]}
    for line in sys.stdin:
        method, params = json.loads(line)
        if method == "notifications":
            print(json.dumps({"result": client.notifications}), flush=True)
            continue
        if method in methods:
            check(methods[method], params)
        answer = client.call(method, params)
        print(json.dumps({key: answer[key] for key in ("result", "error") if key in answer}), flush=True)


main(sys.argv[1])
