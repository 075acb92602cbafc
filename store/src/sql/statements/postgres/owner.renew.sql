update owner
set renewed_at = (extract(epoch from clock_timestamp()) * 1000000)::bigint
where epoch = $1 and not released
