"""A JSON-RPC 2.0 client made of the standard library: backs a VM up, restores the point, prints what it got."""
import json
import socket
import sys

path, vm, folder = sys.argv[1:]
connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
connection.connect(path)
lines = connection.makefile("r", encoding="utf-8")
notified = 0
last_id = 0


def call(method, **params):
    global last_id, notified
    last_id += 1
    request = {"jsonrpc": "2.0", "id": last_id, "method": method, "params": params}
    connection.sendall((json.dumps(request) + "\n").encode())
    for line in lines:
        answer = json.loads(line)
        if "id" not in answer:
            notified += 1
            continue
        assert answer["id"] == last_id and answer["jsonrpc"] == "2.0", answer
        if "error" in answer:
            raise SystemExit(json.dumps(answer["error"]))
        return answer["result"]
    raise SystemExit("the daemon has gone")


assert "backup.start" in [method["name"] for method in call("rpc.discover")["methods"]]
call("run.subscribe", vm=vm)
backup = call("run.wait", **call("backup.start", vm=vm))
assert backup["state"] == "succeeded", backup
restore = call("run.wait", **call("restore.start", vm=vm, point=backup["point"], to=folder))
assert restore["state"] == "succeeded", restore
print(json.dumps({"point": backup["point"], "notified": notified}))
