delete from deduplication where id in (select id from deduplication where queue_id = ?1 limit ?2)
