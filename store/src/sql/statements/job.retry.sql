update job
set state = 'retrying', next_attempt_at = ?2, error_code = ?3, error_detail = ?4
where id = ?1 and completed_at is null
