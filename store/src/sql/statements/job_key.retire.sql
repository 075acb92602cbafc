delete from job_key where number in (
  select number from job_key where expires_at <= ?1 order by expires_at limit ?2
)
