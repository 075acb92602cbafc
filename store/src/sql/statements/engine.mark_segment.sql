update engine set last_segment_id = max(last_segment_id, ?) where id = 1
