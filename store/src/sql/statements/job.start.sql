update job
set state = 'running', attempt = ?2, started_at = coalesce(started_at, ?3), next_attempt_at = null
where id = ?1 and completed_at is null
