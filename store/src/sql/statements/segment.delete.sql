delete from segment where id in (
  ?
)
