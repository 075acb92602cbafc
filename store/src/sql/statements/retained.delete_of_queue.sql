delete from retained where queue_id = ?
