insert into redrive (
  id, queue_id, vhost, source, target, filter, rate, until_seq, next_seq,
  moved, skipped, state, detail, created_at, ended_at, kind
)
values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
on conflict (id) do update set
  next_seq = excluded.next_seq,
  moved = excluded.moved,
  skipped = excluded.skipped,
  state = excluded.state,
  detail = excluded.detail,
  ended_at = excluded.ended_at
