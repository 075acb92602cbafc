with gone as (delete from deduplication where id = any($1::bigint[]) returning queue_id, newest_at, entries)
insert into deduplication (queue_id, newest_at, entries)
select queue_id, max(newest_at), string_agg(entries, '') from gone group by queue_id
