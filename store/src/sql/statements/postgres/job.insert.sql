insert into job (
  id, vhost, target, principal, state, attempt, max_attempts, created_at, started_at, completed_at,
  next_attempt_at, deadline_at, expires_at, result_ttl_ms, idempotency_key, error_code, error_detail,
  result_content_type, result_content_encoding, result_bytes
)
select *
from unnest(
  $1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[],
  $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::text[],
  $16::text[], $17::text[], $18::text[], $19::text[], $20::bigint[]
)
