-- Generic WAL, as bloom writes it.
create schema w_generic;
set search_path to w_generic, public;
create extension bloom;
create table b (i int, j int);
create index b_ij on b using bloom (i, j);
insert into b select g, g % 100 from generate_series(1, 4000) g;
delete from b where i % 3 = 0;
vacuum b;
insert into b select g, g from generate_series(1, 500) g;
-- The init forks of these are not logged.
create unlogged table u (i int, j int);
create index u_ij on u using bloom (i, j);
create index u_j on u using bloom (j) with (length = 100, col1 = 5);
insert into u select g, g from generate_series(1, 500) g;
