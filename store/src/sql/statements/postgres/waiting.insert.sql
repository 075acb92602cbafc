insert into waiting_{slot} (queue_id, seq, due_at, attempt, accepted_at, content_index, content)
select *
from unnest(
  $1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bytea[]
)
