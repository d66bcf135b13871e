-- GiST: builds, splits, killed tuples, page deletion and reuse.
create schema w_gist;
set search_path to w_gist, public;
create table g (id int, p point, b box, r int4range);
create index g_p on g using gist (p);
create index g_b on g using gist (b);
create index g_r on g using gist (r);
insert into g select k, point(random() * 1000, random() * 1000), box(point(k, k), point(k + 5, k + 5)),
       int4range(k, k + k % 10 + 1) from generate_series(1, 5000) k;
checkpoint;
insert into g select k, point(random() * 1000, random() * 1000), box(point(k, -k), point(k + 5, 5 - k)),
       int4range(-k, -k + k % 10 + 1) from generate_series(1, 4000) k;
checkpoint;
update g set p = point(id, id) where id % 3 = 0;
delete from g where id between 500 and 4000;
set enable_seqscan = off;
set enable_bitmapscan = off;
select count(id) from g where p <@ box '((0,0),(1000,1000))';
select count(id) from g where b && box '((-9000,-9000),(9000,9000))';
reset enable_seqscan;
reset enable_bitmapscan;
insert into g select k, point(k % 1000, k % 1000), box(point(k, k), point(k + 5, k + 5)), int4range(k, k + 1)
       from generate_series(1, 3000) k;
delete from g where id < 4500;
vacuum g;
vacuum g;
select pg_current_xact_id();
select pg_current_xact_id();
vacuum g;
insert into g select k, point(k % 1000, k % 1000), box(point(k, k), point(k + 5, k + 5)), int4range(k, k + 1)
       from generate_series(1, 4000) k;
-- A sorted build that nobody touches after it: 16 leaves LSNs in its pages that are none of the WAL's.
create table g_sorted as select point(k % 1000, k) p from generate_series(1, 20000) k;
create index g_sorted_p on g_sorted using gist (p);
