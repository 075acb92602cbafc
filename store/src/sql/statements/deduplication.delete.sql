delete from deduplication where id = ?
