#!/bin/bash
# py-amqp: its integration tests, over TLS too, with certificates made here for those that the
# source distribution lacks. Two tests ask a web server of the internet, and are left out.
prepare() {
  python_environment
  python_source amqp
  certificate
  mkdir source/t/certs
  cp broker.pem source/t/certs/ca_certificate.pem
  cp broker.pem source/t/certs/client_certificate.pem
  cp broker.key source/t/certs/client_key.pem
  echo broken | tee source/t/certs/client_certificate_broken.pem > source/t/certs/client_key_broken.pem
}

run() { run_pytest t/integration -k 'not default_certs'; }

. "$(dirname "$0")/../lib.sh"
