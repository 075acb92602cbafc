select
  id, queue_id, first_seq, last_seq, count, bytes, transient, first_at, last_at,
  octet_length(content_index)::bigint + octet_length(content)
from segment_{slot}
