-- SP-GiST: leaves, nodes, prefixes split, redirects, vacuum.
create schema w_spgist;
set search_path to w_spgist, public;
create table s (id int, t text, p point, q point);
create index s_t on s using spgist (t);
create index s_p on s using spgist (p);
create index s_q on s using spgist (q kd_point_ops);
create table root (id int, t text);
create index root_t on root using spgist (t);
insert into root select g, 'r' || g from generate_series(1, 60) g;
insert into root select g, null from generate_series(1, 60) g;
delete from root where id % 2 = 0;
vacuum root;
insert into s select g, 'http://host' || g % 40 || '/path/' || md5(g::text), point(random() * 1000, random() * 1000),
       point(g, -g) from generate_series(1, 6000) g;
insert into s select g, repeat('prefix', g % 30) || chr(33 + g % 90) || g, point(g % 7, g % 11), point(g % 3, g)
       from generate_series(1, 4000) g;
insert into s select g, chr(256 + g % 500) || repeat('x', g % 200), null, null from generate_series(1, 3000) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(40) ||
       repeat(md5((g * 1)::text), 8), point(g, 0), point(0, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(41) ||
       repeat(md5((g * 2)::text), 8), point(g, 1), point(1, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(42) ||
       repeat(md5((g * 3)::text), 8), point(g, 2), point(2, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(43) ||
       repeat(md5((g * 4)::text), 8), point(g, 3), point(3, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(44) ||
       repeat(md5((g * 5)::text), 8), point(g, 4), point(4, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(45) ||
       repeat(md5((g * 6)::text), 8), point(g, 5), point(5, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(46) ||
       repeat(md5((g * 7)::text), 8), point(g, 6), point(6, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(47) ||
       repeat(md5((g * 8)::text), 8), point(g, 7), point(7, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(48) ||
       repeat(md5((g * 9)::text), 8), point(g, 8), point(8, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(49) ||
       repeat(md5((g * 10)::text), 8), point(g, 9), point(9, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(50) ||
       repeat(md5((g * 11)::text), 8), point(g, 10), point(10, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(51) ||
       repeat(md5((g * 12)::text), 8), point(g, 11), point(11, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(52) ||
       repeat(md5((g * 13)::text), 8), point(g, 12), point(12, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(53) ||
       repeat(md5((g * 14)::text), 8), point(g, 13), point(13, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(54) ||
       repeat(md5((g * 15)::text), 8), point(g, 14), point(14, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(55) ||
       repeat(md5((g * 16)::text), 8), point(g, 15), point(15, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(56) ||
       repeat(md5((g * 17)::text), 8), point(g, 16), point(16, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(57) ||
       repeat(md5((g * 18)::text), 8), point(g, 17), point(17, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(58) ||
       repeat(md5((g * 19)::text), 8), point(g, 18), point(18, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(59) ||
       repeat(md5((g * 20)::text), 8), point(g, 19), point(19, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(60) ||
       repeat(md5((g * 21)::text), 8), point(g, 20), point(20, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(61) ||
       repeat(md5((g * 22)::text), 8), point(g, 21), point(21, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(62) ||
       repeat(md5((g * 23)::text), 8), point(g, 22), point(22, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(63) ||
       repeat(md5((g * 24)::text), 8), point(g, 23), point(23, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(64) ||
       repeat(md5((g * 25)::text), 8), point(g, 24), point(24, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(65) ||
       repeat(md5((g * 26)::text), 8), point(g, 25), point(25, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(66) ||
       repeat(md5((g * 27)::text), 8), point(g, 26), point(26, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(67) ||
       repeat(md5((g * 28)::text), 8), point(g, 27), point(27, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(68) ||
       repeat(md5((g * 29)::text), 8), point(g, 28), point(28, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(69) ||
       repeat(md5((g * 30)::text), 8), point(g, 29), point(29, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(70) ||
       repeat(md5((g * 31)::text), 8), point(g, 30), point(30, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(71) ||
       repeat(md5((g * 32)::text), 8), point(g, 31), point(31, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(72) ||
       repeat(md5((g * 33)::text), 8), point(g, 32), point(32, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(73) ||
       repeat(md5((g * 34)::text), 8), point(g, 33), point(33, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(74) ||
       repeat(md5((g * 35)::text), 8), point(g, 34), point(34, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(75) ||
       repeat(md5((g * 36)::text), 8), point(g, 35), point(35, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(76) ||
       repeat(md5((g * 37)::text), 8), point(g, 36), point(36, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(77) ||
       repeat(md5((g * 38)::text), 8), point(g, 37), point(37, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(78) ||
       repeat(md5((g * 39)::text), 8), point(g, 38), point(38, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(79) ||
       repeat(md5((g * 40)::text), 8), point(g, 39), point(39, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(80) ||
       repeat(md5((g * 41)::text), 8), point(g, 40), point(40, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(81) ||
       repeat(md5((g * 42)::text), 8), point(g, 41), point(41, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(82) ||
       repeat(md5((g * 43)::text), 8), point(g, 42), point(42, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(83) ||
       repeat(md5((g * 44)::text), 8), point(g, 43), point(43, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(84) ||
       repeat(md5((g * 45)::text), 8), point(g, 44), point(44, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(85) ||
       repeat(md5((g * 46)::text), 8), point(g, 45), point(45, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(86) ||
       repeat(md5((g * 47)::text), 8), point(g, 46), point(46, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(87) ||
       repeat(md5((g * 48)::text), 8), point(g, 47), point(47, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(88) ||
       repeat(md5((g * 49)::text), 8), point(g, 48), point(48, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(89) ||
       repeat(md5((g * 50)::text), 8), point(g, 49), point(49, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(90) ||
       repeat(md5((g * 51)::text), 8), point(g, 50), point(50, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(91) ||
       repeat(md5((g * 52)::text), 8), point(g, 51), point(51, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(92) ||
       repeat(md5((g * 53)::text), 8), point(g, 52), point(52, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(93) ||
       repeat(md5((g * 54)::text), 8), point(g, 53), point(53, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(94) ||
       repeat(md5((g * 55)::text), 8), point(g, 54), point(54, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(95) ||
       repeat(md5((g * 56)::text), 8), point(g, 55), point(55, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(96) ||
       repeat(md5((g * 57)::text), 8), point(g, 56), point(56, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(97) ||
       repeat(md5((g * 58)::text), 8), point(g, 57), point(57, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(98) ||
       repeat(md5((g * 59)::text), 8), point(g, 58), point(58, g) from generate_series(1, 80) g;
insert into s select g, 'grow' || lpad(g::text, 4, '0') || chr(99) ||
       repeat(md5((g * 60)::text), 8), point(g, 59), point(59, g) from generate_series(1, 80) g;
delete from s where id % 2 = 0;
vacuum s;
insert into s select g, 'http://other/' || md5(g::text), point(g, g), point(-g, g) from generate_series(1, 3000) g;
delete from s where id between 100 and 2500;
vacuum s;
select pg_current_xact_id();
vacuum s;
insert into s select g, md5(g::text) || 'end', point(random() * 9, random() * 9), point(random(), g)
       from generate_series(1, 3000) g;
update s set t = 'a' || t where id % 9 = 0;
vacuum s;
select pg_current_xact_id();
vacuum s;
create index s_built on s using spgist (t);
