select id, queue_id
from deduplication
where id > $1 and length(entries) < $2::bigint
order by id
limit $3
