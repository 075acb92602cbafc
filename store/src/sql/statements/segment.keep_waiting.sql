insert into segment (
  id, queue_id, first_seq, last_seq, count, bytes, transient, first_at, last_at, content_index, content
)
select ?, queue_id, seq, seq, 1, length(content), 0, ?, ?, content_index, content
from waiting
where queue_id = ? and seq = ? and length(content) > 0
