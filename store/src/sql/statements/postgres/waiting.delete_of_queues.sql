delete from waiting_{slot} where (queue_id, seq) in (
  select queue_id, seq from waiting_{slot} where queue_id = any($1::bigint[]) limit $2
)
