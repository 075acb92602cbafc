delete from deduplication where queue_id = ? and newest_at <= ?
