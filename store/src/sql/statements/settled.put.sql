insert into settled (segment_id, queue_id, bits)
values
  (?, ?, ?)
on conflict (segment_id) do update set queue_id = excluded.queue_id, bits = excluded.bits
