insert into limit_value (subject_kind, subject, name, value)
values (?, ?, ?, ?)
on conflict (subject_kind, subject, name) do update set
  value = excluded.value
