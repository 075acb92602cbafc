select queue_id, seq, due_at, attempt from waiting
