delete from retained where queue_id = any($1::bigint[])
