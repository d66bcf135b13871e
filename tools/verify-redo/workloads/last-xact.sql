-- Subtransactions, prepared transactions, DDL, relation maps, origins, messages.
create schema w_xact;
set search_path to w_xact, public;
create table x (id int, v text);
create unlogged table nowal (id int);
do $$ begin
  for i in 1..70000 loop
    begin
      insert into nowal values (i);
      if i % 7 = 0 then raise division_by_zero; end if;
    exception when division_by_zero then null;
    end;
  end loop;
end $$;
begin;
do $$ begin
  for i in 1..40000 loop
    begin
      insert into nowal values (i);
      if i % 1000000 = 0 then raise division_by_zero; end if;
    exception when division_by_zero then null;
    end;
  end loop;
end $$;
rollback;
begin;
insert into x values (1);
savepoint a;
insert into x values (2);
savepoint b;
insert into x values (3);
rollback to a;
savepoint c;
insert into x values (4);
release c;
commit;
insert into x values (0);
insert into x values (1);
insert into x values (2);
insert into x values (3);
insert into x values (4);
insert into x values (5);
insert into x values (6);
insert into x values (7);
insert into x values (8);
insert into x values (9);
begin;
create table dropped (id int primary key);
insert into dropped values (1);
commit;
drop table dropped;
create table l (id int primary key);
insert into l select generate_series(1, 2500);
begin;
select * from l for share;
commit;
begin;
update l set id = id where id <= 20;
savepoint s;
select * from l where id <= 20 for update;
update l set id = id where id between 21 and 30;
commit;
vacuum full pg_class;
vacuum full pg_proc;
vacuum full pg_database;
cluster pg_attribute using pg_attribute_relid_attnum_index;
vacuum (freeze);
checkpoint;
alter database template0 allow_connections true;
create table victim1 (id serial primary key);
insert into victim1 default values;
create table victim2 (id serial primary key);
insert into victim2 default values;
create table victim3 (id serial primary key);
insert into victim3 default values;
begin;
create table made1 (id serial primary key, v text);
insert into made1 (v) values ('x');
savepoint s;
insert into x values (1);
savepoint t;
insert into x values (-1);
rollback to t;
drop table victim1;
analyze made1;
prepare transaction 'commits';
begin;
create table made2 (id serial primary key, v text);
insert into made2 (v) values ('x');
savepoint s;
insert into x values (2);
savepoint t;
insert into x values (-2);
rollback to t;
drop table victim2;
analyze made2;
prepare transaction 'aborts';
begin;
create table made3 (id serial primary key, v text);
insert into made3 (v) values ('x');
savepoint s;
insert into x values (3);
savepoint t;
insert into x values (-3);
rollback to t;
drop table victim3;
analyze made3;
prepare transaction 'stays, with a name of some length';
begin;
insert into x values (77);
prepare transaction 'small';
commit prepared 'commits';
rollback prepared 'aborts';
begin;
do $$ begin
  for i in 1..3000 loop
    begin
      insert into nowal values (i);
      if i % 10 = 0 then raise division_by_zero; end if;
    exception when division_by_zero then null;
    end;
  end loop;
end $$;
prepare transaction 'many subtransactions';
begin;
do $$ begin
  for i in 1..500 loop
    begin
      insert into nowal values (i);
      if i % 10 = 0 then raise division_by_zero; end if;
    exception when division_by_zero then null;
    end;
  end loop;
end $$;
prepare transaction 'many that commit';
commit prepared 'many that commit';
