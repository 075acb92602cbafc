update owner
set
  epoch = epoch + 1,
  cluster = $2,
  node = $3,
  taken_at = (extract(epoch from clock_timestamp()) * 1000000)::bigint,
  renewed_at = (extract(epoch from clock_timestamp()) * 1000000)::bigint,
  lease_ms = $4,
  released = false
where id = 1 and epoch = $1
  and (released or (extract(epoch from clock_timestamp()) * 1000000)::bigint > renewed_at + lease_ms * 1000)
returning epoch
