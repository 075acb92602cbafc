insert into job (
  id, vhost, target, principal, state, attempt, max_attempts, created_at, started_at, completed_at,
  next_attempt_at, deadline_at, expires_at, result_ttl_ms, idempotency_key, error_code, error_detail,
  result_content_type, result_content_encoding, result_bytes
)
values
  (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
