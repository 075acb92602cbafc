select
  max(last_queue_id, coalesce((select max(id) from queue), 0)),
  max(last_segment_id, coalesce((select max(id) from segment), 0))
from engine
where id = 1
