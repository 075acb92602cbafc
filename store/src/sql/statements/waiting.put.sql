insert into waiting (queue_id, seq, due_at, attempt, content_index, content)
values
  (?, ?, ?, ?, ?, ?)
on conflict (queue_id, seq) do update set
  due_at = excluded.due_at,
  attempt = excluded.attempt,
  content_index = excluded.content_index,
  content = excluded.content
