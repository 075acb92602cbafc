delete from head where queue_id = ?
