select
  epoch, cluster, node, released, lease_ms,
  (extract(epoch from clock_timestamp()) * 1000000)::bigint - renewed_at
from owner
where id = 1
