"""Calls the worker behind the queue "fib" over HTTP and waits for its answer."""
import base64, json, os, sys, time, uuid
from urllib.parse import urljoin
from urllib.request import Request, urlopen

server = os.environ.get("HTTP_URL", "http://localhost:15672")
login = {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()}
number = int(sys.argv[1]) if len(sys.argv) > 1 else 30

call = Request(
    urljoin(server, "/v1/calls/queue/fib"),
    data=json.dumps({"n": number}).encode(),
    headers=login | {
        "Content-Type": "application/json",
        "Idempotency-Key": f'"{uuid.uuid4()}"',  # sent again, it returns the same job
        "Prefer": "wait=5",                      # the answer itself, if it comes in time
    },
)
with urlopen(call) as response:
    if response.status == 200:
        print("answer at once:", response.read().decode())
        sys.exit()
    job = urljoin(server, response.headers["Location"])
    print("accepted:", job)

while True:
    with urlopen(Request(job, headers=login)) as response:
        state = json.load(response)["state"]
        pause = int(response.headers.get("Retry-After", 1))
    print("state:", state)
    if state in ("succeeded", "failed", "cancelled", "expired"):
        break
    time.sleep(pause)
with urlopen(Request(job + "/result", headers=login)) as response:
    print("answer:", response.read().decode())
