select
  queue_id, seq, due_at, attempt, octet_length(content_index)::bigint + octet_length(content)
from waiting_{slot}
