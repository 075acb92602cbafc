update job
set
  state = ?2,
  completed_at = ?3,
  expires_at = ?3 + result_ttl_ms * 1000,
  next_attempt_at = null,
  error_code = ?4,
  error_detail = ?5,
  result_content_type = ?6,
  result_content_encoding = ?7,
  result_bytes = ?8
where id = ?1 and completed_at is null
