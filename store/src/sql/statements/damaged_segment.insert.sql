insert into damaged_segment
  (id, queue_id, first_seq, last_seq, count, bytes, transient, first_at, last_at, content_index, content)
values
  (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
