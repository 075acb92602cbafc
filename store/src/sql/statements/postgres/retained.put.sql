insert into retained (segment_id, queue_id, settled_at)
select * from unnest($1::bigint[], $2::bigint[], $3::bigint[])
on conflict (segment_id) do update set settled_at = excluded.settled_at
