update job
set result_content_type = null, result_content_encoding = null, result_bytes = null
where number in (
  select number
  from job
  where expires_at <= ?1 and result_bytes is not null
  order by expires_at
  limit ?2
)
