#!/bin/bash
# aio-pika: all its tests. It wants a container with a broker; the stand-in of a container
# engine gives it the broker of this room.
prepare() { python_environment; python_source aio-pika; certificate; }

run() {
  python3 "$here/docker.py" &
  export DOCKER_HOST=tcp://127.0.0.1:2375
  for _ in $(seq 50); do (exec 3<>/dev/tcp/127.0.0.1/2375) 2>/dev/null && break; sleep 0.1; done
  run_pytest tests
}

. "$(dirname "$0")/../lib.sh"
