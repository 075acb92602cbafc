select id, queue_id, first_seq, last_seq, count, bytes, transient, first_at, last_at
from damaged_segment
order by id
