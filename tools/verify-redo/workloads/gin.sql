-- GIN: builds, pending lists, posting trees, vacuum.
create schema w_gin;
set search_path to w_gin, public;
create table n (id int, a int[], t tsvector);
create index n_a on n using gin (a) with (fastupdate = off);
create index n_t on n using gin (t);
insert into n select g, array[g % 5, g % 100, g], to_tsvector('simple', 'all w' || g % 50 || ' x' || g)
       from generate_series(1, 4000) g;
vacuum n;
insert into n select g, array[g % 3], to_tsvector('simple', 'all ' || md5(g::text)) from generate_series(1, 3000) g;
delete from n where id % 4 = 0;
vacuum n;
insert into n select g, array[g % 5, -g], to_tsvector('simple', 'all w' || g % 50) from generate_series(1, 3000) g;
select gin_clean_pending_list('n_t');
create table deep (id int, a int[]) with (autovacuum_enabled = off);
create index deep_a on deep using gin (a) with (fastupdate = off);
insert into deep select g, array[1] from generate_series(1, 30000) g;
delete from deep where id between 3000 and 27000;
vacuum deep;
insert into deep select g, array[1, g % 2] from generate_series(1, 5000) g;
delete from deep where id % 3 = 0;
vacuum deep;
create index n_built on n using gin (a);
update n set a = a || 7 where id % 10 = 0;
