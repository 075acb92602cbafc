select schedule, nominal_at, fired_at
from fire
where (schedule, nominal_at) > (?1, ?2)
order by schedule, nominal_at
limit ?3
