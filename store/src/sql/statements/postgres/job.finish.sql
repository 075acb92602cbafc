with done as (
  update job
  set
    state = $2,
    completed_at = $3,
    expires_at = $3 + result_ttl_ms * 1000,
    next_attempt_at = null,
    error_code = $4,
    error_detail = $5,
    result_content_type = $6,
    result_content_encoding = $7,
    result_bytes = length($8::bytea)
  where id = $1 and completed_at is null
  returning id
),
kept as (
  insert into job_result (job_id, content_type, content_encoding, body)
  select id, $6, $7, $8 from done where $8 is not null
)
select id from done
