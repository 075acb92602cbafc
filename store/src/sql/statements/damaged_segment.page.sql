select id, queue_id, first_seq, last_seq, count, bytes, transient, first_at, last_at, content_index, content
from damaged_segment
where id > ?1
order by id
limit ?2
