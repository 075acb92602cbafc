#!/bin/bash
# Stands in for rabbitmqctl on Leveret: what suites ask of it, in the words of Leveret's own
# command line. What has no such word is refused.
set -euo pipefail
case $1 in
  add_user) "$LEVERET" user add "$2" "$3" ;;
  set_user_tags) "$LEVERET" user tags "$2" "$3" ;;
  set_permissions) "$LEVERET" permission set "$2" "$3" "$4" "$5" ;;
  set_vm_memory_high_watermark)
    if [ "$2" = absolute ]; then shift; fi
    "$LEVERET" alarm set memory "$2" ;;
  set_disk_free_limit) "$LEVERET" alarm set disk "$2" ;;
  trace_on | trace_off) "$LEVERET" trace "${1#trace_}" ;;
  close_all_connections) "$LEVERET" connection close-all --reason "${*: -1}" ;;
  *) echo "rabbitmqctl.sh: Leveret has no word for: $*" >&2; exit 64 ;;
esac
