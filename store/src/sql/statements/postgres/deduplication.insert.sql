insert into deduplication (queue_id, newest_at, entries)
select * from unnest($1::bigint[], $2::bigint[], $3::bytea[])
