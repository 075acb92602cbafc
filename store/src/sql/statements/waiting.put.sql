insert into waiting (queue_id, seq, due_at, attempt, accepted_at, content_index, content)
values
  (?, ?, ?, ?, ?, ?, ?)
on conflict (queue_id, seq) do update set
  due_at = excluded.due_at,
  attempt = excluded.attempt,
  accepted_at = excluded.accepted_at,
  content_index = excluded.content_index,
  content = excluded.content
