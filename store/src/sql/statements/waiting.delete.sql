delete from waiting where (queue_id, seq) in (values
  (?, ?)
)
