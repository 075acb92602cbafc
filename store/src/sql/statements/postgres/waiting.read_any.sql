select seq, due_at, attempt, accepted_at, content_index, content
from waiting
where queue_id = $1 and seq = any($2::bigint[])
