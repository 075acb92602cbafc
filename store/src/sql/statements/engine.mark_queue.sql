update engine set last_queue_id = max(last_queue_id, ?) where id = 1
