-- What is written for the cluster rather than for a table: switches, backups, messages, origins, rewritten catalogs.
create schema w_cluster;
set search_path to w_cluster, public;
alter system set full_page_writes = on;
select pg_reload_conf();
checkpoint;
alter system set full_page_writes = off;
select pg_reload_conf();
checkpoint;
alter system reset full_page_writes;
select pg_reload_conf();
checkpoint;
select pg_create_restore_point('a point');
select pg_switch_wal();
select pg_backup_start('a backup', true);
select pg_backup_stop(false);
select pg_logical_emit_message(true, 'prefix', 'content of a transaction');
select pg_logical_emit_message(false, 'prefix', 'content at once');
select pg_replication_origin_create('origin');
select pg_replication_origin_advance('origin', '0/1234');
select pg_replication_origin_drop('origin');
-- Progress forwards, not backwards, by transactions, and by force; the first of its kind that is kept.
create table applied (i int);
select pg_replication_origin_create('upstream');
select pg_replication_origin_session_setup('upstream');
begin;
insert into applied values (1);
select pg_replication_origin_xact_setup('0/2000', now());
commit;
begin;
insert into applied values (2);
select pg_replication_origin_xact_setup('0/1000', now());
commit;
begin;
insert into applied values (3);
select pg_replication_origin_xact_setup('FFFFFFFF/FFFFFFF0', now());
prepare transaction 'applied';
commit prepared 'applied';
select pg_replication_origin_session_reset();
select pg_replication_origin_advance('upstream', '1/3000');
-- A catalog that is rewritten while logical decoding may still need its old tuples.
select pg_create_logical_replication_slot('decoder', 'pgoutput');
create table decoded (i int, t text);
alter table decoded add column n numeric default 1.5;
begin;
alter table decoded rename column t to u;
commit;
create function touched() returns int language sql return 1;
drop function touched();
vacuum full pg_class;
vacuum full pg_attribute;
vacuum full pg_proc;
select pg_drop_replication_slot('decoder');
-- More than a page of multixact offsets: each row is locked by the transaction and changed by one below it.
create table shared (i int primary key, n int);
insert into shared select generate_series(1, 4200), 0;
do $$ begin
  for k in 1..4200 loop
    perform 1 from shared where i = k for key share;
    begin
      update shared set n = n + 1 where i = k;
    exception when division_by_zero then null;
    end;
  end loop;
end $$;
vacuum (freeze) shared;
-- Large objects.
select lo_from_bytea(70001, decode(repeat('00ff7e', 200000), 'hex'));
select lo_put(70001, 100000, decode(repeat('11', 50000), 'hex'));
do $$ begin
  perform lo_truncate(lo_open(70001, 131072), 4096);
end $$;
select lo_unlink(70001);
-- More than a segment of transaction status and of commit timestamps, then frozen everywhere, so that both are cut.
create unlogged table burnt (i int);
do $$ begin
  for k in 1..110000 loop
    begin
      insert into burnt values (k);
    exception when division_by_zero then null;
    end;
  end loop;
end $$;
do $$ begin
  for k in 1..110000 loop
    begin
      insert into burnt values (k);
    exception when division_by_zero then null;
    end;
  end loop;
end $$;
do $$ begin
  for k in 1..110000 loop
    begin
      insert into burnt values (k);
    exception when division_by_zero then null;
    end;
  end loop;
end $$;
do $$ begin
  for k in 1..110000 loop
    begin
      insert into burnt values (k);
    exception when division_by_zero then null;
    end;
  end loop;
end $$;
do $$ begin
  for k in 1..110000 loop
    begin
      insert into burnt values (k);
    exception when division_by_zero then null;
    end;
  end loop;
end $$;
do $$ begin
  for k in 1..110000 loop
    begin
      insert into burnt values (k);
    exception when division_by_zero then null;
    end;
  end loop;
end $$;
do $$ begin
  for k in 1..110000 loop
    begin
      insert into burnt values (k);
    exception when division_by_zero then null;
    end;
  end loop;
end $$;
do $$ begin
  for k in 1..110000 loop
    begin
      insert into burnt values (k);
    exception when division_by_zero then null;
    end;
  end loop;
end $$;
do $$ begin
  for k in 1..110000 loop
    begin
      insert into burnt values (k);
    exception when division_by_zero then null;
    end;
  end loop;
end $$;
do $$ begin
  for k in 1..110000 loop
    begin
      insert into burnt values (k);
    exception when division_by_zero then null;
    end;
  end loop;
end $$;
alter database template0 allow_connections true;
\c template0
vacuum (freeze);
\c template1
vacuum (freeze);
\c postgres
vacuum (freeze);
checkpoint;
