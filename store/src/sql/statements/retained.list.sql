select segment_id, queue_id, settled_at from retained order by segment_id
