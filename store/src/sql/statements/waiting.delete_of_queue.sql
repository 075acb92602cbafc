delete from waiting where id in (select id from waiting where queue_id = ?1 limit ?2)
