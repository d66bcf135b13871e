-- SP-GiST: a page that a vacuum emptied is used again. Looking for an inner page, Postgres initializes it, finds that its
-- number has the wrong parity and leaves it as it is then, without a record.
create schema w_spgist_reuse;
set search_path to w_spgist_reuse, public;
create table s (id int, t text, b box) with (autovacuum_enabled = off);
create index s_b on s using spgist (b);
insert into s select g, repeat('/very/long/path', g % 5) || g, box(point(g % 100, g % 77), point(g % 100 + 3, g % 77 + 2))
       from generate_series(1, 10000) g;
vacuum s;
insert into s select 100000 + g, 'http://host' || g % 13 || repeat('x', g % 300), null from generate_series(1, 5000) g;
checkpoint;
update s set t = t || '#' || id where id % 9 = 0;
delete from s where id % 3 = 1;
vacuum s;
select pg_current_xact_id() is not null;
insert into s select 200000 + g, repeat('same', 60), box(point(0, 0), point(1000, 1000)) from generate_series(1, 1500) g;
delete from s where id > 201000;
vacuum s;
select pg_current_xact_id() is not null;
vacuum s;
