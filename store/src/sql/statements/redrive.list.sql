select id, queue_id, vhost, source, target, filter, rate, until_seq, next_seq,
  moved, skipped, state, detail, created_at, ended_at, kind
from redrive
order by id
