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
