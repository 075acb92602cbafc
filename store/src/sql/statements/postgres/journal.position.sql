select greatest(
  coalesce((select max(position) from journal_0), 0),
  coalesce((select max(position) from journal_1), 0)
)
