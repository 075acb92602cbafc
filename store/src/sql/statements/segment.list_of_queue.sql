select id from segment where queue_id = ?
