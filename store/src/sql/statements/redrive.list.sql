select id, queue_id, vhost, source, target, filter, rate, until_seq, next_seq,
  moved, skipped, state, detail, created_at, ended_at
from redrive
order by id
