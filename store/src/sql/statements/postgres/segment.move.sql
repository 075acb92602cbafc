with moved as (delete from segment_{other} where id = any($1::bigint[]) returning *)
insert into segment_{slot} select * from moved
