delete from retained where segment_id = any($1::bigint[])
