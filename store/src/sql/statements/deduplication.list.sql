select queue_id, newest_at, entries from deduplication order by id
