delete from deduplication where id in (
  select id from deduplication where queue_id = any($1::bigint[]) limit $2
)
