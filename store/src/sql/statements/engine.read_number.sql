select max(
  (select commit_number from engine where id = 1),
  coalesce((select max(commit_number) from head where run = ?1), 0)
)
