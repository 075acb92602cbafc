insert into segment_{slot} (
  id, queue_id, first_seq, last_seq, count, bytes, transient, first_at, last_at, content_index, content
)
select $1, queue_id, seq, seq, 1, length(content), false, $2, $2, content_index, content
from waiting
where queue_id = $3 and seq = $4 and length(content) > 0
