insert into job_result (job_id, content_type, content_encoding, body)
values (?, ?, ?, ?)
