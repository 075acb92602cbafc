select subject_kind, subject, name, value
from limit_value
order by subject_kind desc, subject, name
