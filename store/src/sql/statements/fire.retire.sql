delete from fire where (schedule, nominal_at) in (
  select schedule, nominal_at from fire where fired_at < ?1 order by fired_at limit ?2
)
