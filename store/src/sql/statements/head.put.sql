insert into head (queue_id, head_seq, handed_seq, next_seq, run, commit_number)
values
  (?, ?, ?, ?, ?, ?)
on conflict (queue_id) do update set
  head_seq = excluded.head_seq,
  handed_seq = excluded.handed_seq,
  next_seq = excluded.next_seq,
  run = excluded.run,
  commit_number = excluded.commit_number
