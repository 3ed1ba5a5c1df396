"""Bring a file into a sandbox, let code use it, take the result out: `URL=... TOKEN=... python files.py`."""

import json
import os
import urllib.request


def call(method, path, data=None):
    headers = {"Authorization": f"token {os.environ['TOKEN']}"}
    request = urllib.request.Request(os.environ["URL"] + path, data, headers, method=method)
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def ask(method, path, body):
    return json.loads(call(method, path, json.dumps(body).encode()))


sandbox = f"/api/sandboxes/{ask('POST', '/api/sandboxes', {})['id']}"
context = f"{sandbox}/contexts/{ask('POST', f'{sandbox}/contexts', {})['id']}"

call("PUT", f"{sandbox}/files/in/numbers.txt?parents=1", b"1\n2\n3\n")
code = "total = sum(map(int, open('in/numbers.txt'))); print(total, file=open('total.txt', 'w'))"
ask("POST", f"{context}/executions", {"code": f"import os; os.chdir('/sandbox'); {code}"})
print(call("GET", f"{sandbox}/files/total.txt?download=1").decode().strip())
call("DELETE", sandbox)
