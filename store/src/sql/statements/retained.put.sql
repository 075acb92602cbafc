insert into retained (segment_id, queue_id, settled_at)
values
  (?, ?, ?)
on conflict (segment_id) do update set settled_at = excluded.settled_at
