-- From here on segments and waiting rows may be of version 2, whose messages share their beginnings
-- (store/src/log/segment.rs). No table changes; the number keeps older releases, which would take such
-- rows for damaged ones, from a store that has them.

select 1;
