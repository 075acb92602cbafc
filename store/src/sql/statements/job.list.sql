select
  id, vhost, target, principal, state, attempt, max_attempts, created_at, started_at, completed_at,
  next_attempt_at, deadline_at, expires_at, result_ttl_ms, idempotency_key, error_code, error_detail,
  result_content_type, result_content_encoding, result_bytes
from job
where id < ?1 and (cast(?2 as text) is null or vhost = ?2) and (cast(?3 as text) is null or target = ?3)
order by id desc
limit ?4
