-- CREATE and DROP DATABASE by both strategies, tablespaces.
create schema w_dbase;
set search_path to w_dbase, public;
set allow_in_place_tablespaces = on;
create tablespace space location '';
create database logged strategy wal_log;
create database copied tablespace space strategy file_copy;
create table t tablespace space as select generate_series(1, 3000);
delete from t where generate_series > 1000;
vacuum t;
drop table t;
drop database copied;
drop database logged;
vacuum full pg_class;
drop tablespace space;
