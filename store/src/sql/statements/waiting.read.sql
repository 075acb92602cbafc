select seq, due_at, attempt, accepted_at, content_index, content
from waiting
where queue_id = ? and seq in (select value from json_each(?))
