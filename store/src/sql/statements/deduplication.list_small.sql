select id, queue_id, newest_at, entries
from deduplication
where id > ?1 and length(entries) < ?2
order by id
limit ?3
