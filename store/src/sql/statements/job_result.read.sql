select content_type, content_encoding, body from job_result where job_id = ?
