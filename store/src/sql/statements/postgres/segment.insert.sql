insert into segment_{slot} (
  id, queue_id, first_seq, last_seq, count, bytes, transient, first_at, last_at, content_index, content
)
select *
from unnest(
  $1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::boolean[],
  $8::bigint[], $9::bigint[], $10::bytea[], $11::bytea[]
)
