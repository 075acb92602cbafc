insert into deduplication (queue_id, newest_at, entries) values (?, ?, ?)
