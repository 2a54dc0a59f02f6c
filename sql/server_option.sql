--
-- server_option: what CREATE SERVER and CREATE USER MAPPING take and refuse
--
-- An option that is not known to be safe does not reach the Kafka library, and
-- secrets stand in user mappings alone.
--
CREATE ROLE regress_server_admin IN ROLE detect_admin LOGIN;
CREATE ROLE regress_server_reader IN ROLE pg_read_server_files;
SET SESSION AUTHORIZATION regress_server_admin;

CREATE FUNCTION pg_temp.server(options text) RETURNS text LANGUAGE sql AS $$
    SELECT regress.outcome('CREATE SERVER regress_refused FOREIGN DATA WRAPPER detect_kafka OPTIONS (' || options || ')')
$$;
CREATE FUNCTION pg_temp.mapping(options text) RETURNS text LANGUAGE sql AS $$
    SELECT regress.outcome('CREATE USER MAPPING FOR CURRENT_USER SERVER regress_city OPTIONS (' || options || ')')
$$;

\pset format unaligned
\pset tuples_only on
\pset fieldsep ': '

-- all options in their places
CREATE SERVER regress_city FOREIGN DATA WRAPPER detect_kafka OPTIONS (
    bootstrap_servers 'kafka1:9092, kafka-2.example.org:9093,[2001:db8::1]:9094,[::1],10.0.0.1',
    broker_address_family 'V4', client_id 'city', client_rack 'a', fetch_max_bytes '1000000', fetch_message_max_bytes '1024',
    fetch_min_bytes '1', fetch_wait_max_ms '2000', queued_max_messages_kbytes '1048576', sasl_mechanism 'scram-sha-512',
    security_protocol 'SASL_SSL', socket_timeout_ms '1000', ssl_ca_pem '-----BEGIN CERTIFICATE-----',
    ssl_cipher_suites 'TLS_AES_256_GCM_SHA384', ssl_endpoint_identification_algorithm 'none');
CREATE USER MAPPING FOR CURRENT_USER SERVER regress_city OPTIONS (
    sasl_username 'ops', sasl_password 'secret', ssl_certificate_pem 'x', ssl_key_pem 'x', ssl_key_password 'x');
ALTER SERVER regress_city OPTIONS (SET client_id 'town', DROP client_rack, ADD client_rack 'b');
ALTER USER MAPPING FOR CURRENT_USER SERVER regress_city OPTIONS (DROP sasl_password);
DROP USER MAPPING FOR CURRENT_USER SERVER regress_city;

-- a server needs its brokers, also after ALTER
SELECT 'none', regress.outcome('CREATE SERVER regress_refused FOREIGN DATA WRAPPER detect_kafka');
SELECT 'others alone', pg_temp.server($$client_id 'city'$$);
SELECT 'dropped', regress.outcome('ALTER SERVER regress_city OPTIONS (DROP bootstrap_servers)');
SELECT value, pg_temp.server(format('bootstrap_servers %L', value))
FROM unnest(ARRAY['', ' ', ',', 'kafka1,', 'kafka1:9092,,kafka2:9092', ':9092', 'kafka1:', 'kafka1:0', 'kafka1:65536',
                  'kafka1:99999999999', 'kafka1:90x', 'kafka1:-1', 'kafka1:9092:9092', 'kafka 1:9092', 'plaintext://kafka1:9092',
                  'käfka:9092', '2001:db8::1', '[::1', '[]', '[::g]:9092', '[::1]9092', 'kafka1;9092']) value;

-- names: misspelt, Kafka's own, in the wrong place, unknown, dangerous
SELECT name, pg_temp.server(format('bootstrap_servers ''kafka:9092'', %I ''x''', name))
FROM unnest(ARRAY['bootstrap_server', 'boostrap_servers', 'clientid', 'security_protocl', 'fetch_max_byte',
                  'bootstrap.servers', 'security.protocol', 'sasl.mechanisms', 'ssl.ca.pem', 'sasl.password', 'BOOTSTRAP_SERVERS',
                  'sasl_username', 'sasl_password', 'ssl_key_pem', 'ssl_key_password', 'ssl_key_location', 'ssl_certificate_pem',
                  'user', 'password', 'host', 'brokers', 'port', 'group_id', 'group.id', 'auto.offset.reset', 'enable.auto.commit', 'isolation.level',
                  'plugin.library.paths', 'ssl.engine.location', 'sasl.kerberos.kinit.cmd', 'enable.ssl.certificate.verification',
                  'debug', 'x', repeat('x', 63)]) name;
SELECT name, pg_temp.mapping(format('%I ''x''', name))
FROM unnest(ARRAY['sasl_user', 'sasl_pasword', 'sasl.username', 'ssl.key.password', 'bootstrap_servers', 'security_protocol',
                  'ssl_ca_pem', 'user', 'username', 'password', 'sasl_passwort', 'plugin.library.paths']) name;
SELECT 'twice', pg_temp.server($$bootstrap_servers 'a', bootstrap_servers 'b'$$);

-- values
SELECT name, value, pg_temp.server(format('bootstrap_servers ''kafka:9092'', %I %L', name, value))
FROM (VALUES
    ('broker_address_family', 'ipv4'),
    ('client_id', ''),
    ('client_id', repeat('x', 65)),
    ('client_rack', repeat('x', 256)),
    ('fetch_max_bytes', '999999'),
    ('fetch_max_bytes', '2147483136'),
    ('fetch_max_bytes', '1e6x'),
    ('fetch_message_max_bytes', '0'),
    ('fetch_min_bytes', '0'),
    ('fetch_min_bytes', '1048577'),
    ('fetch_wait_max_ms', ''),
    ('fetch_wait_max_ms', '1.5s'),
    ('fetch_wait_max_ms', '2001'),
    ('queued_max_messages_kbytes', '99999999999999999999'),
    ('socket_timeout_ms', '-1000'),
    ('sasl_mechanism', 'GSSAPI'),
    ('sasl_mechanism', 'PLAIN,SCRAM-SHA-256'),
    ('sasl_mechanism', ''),
    ('security_protocol', 'tls'),
    ('ssl_ca_pem', ''),
    ('ssl_endpoint_identification_algorithm', 'no')) v (name, value);

-- the value of a secret is never shown
SELECT 'empty', pg_temp.mapping($$sasl_password ''$$);
SELECT 'too long', pg_temp.mapping(format('sasl_password %L', repeat('secret', 20000)));
SELECT 'key', pg_temp.mapping(format('ssl_key_password %L', repeat('secret', 20000)));

-- files of the database server: only who may read them anyway
SELECT 'ca', pg_temp.server($$bootstrap_servers 'kafka:9092', ssl_ca_location '/etc/ssl/ca.pem'$$);
SELECT 'certificate', pg_temp.mapping($$ssl_certificate_location '/etc/ssl/ca.pem'$$);
SELECT 'key', pg_temp.mapping($$ssl_key_location '/etc/ssl/ca.pem'$$);
RESET SESSION AUTHORIZATION;
GRANT regress_server_reader TO regress_server_admin;
SET SESSION AUTHORIZATION regress_server_admin;
SELECT 'ca', pg_temp.server($$bootstrap_servers 'kafka:9092', ssl_ca_location '/no/such/file'$$);
DROP SERVER regress_refused;
DROP FUNCTION pg_temp.server, pg_temp.mapping;

-- no other object has options
RESET SESSION AUTHORIZATION;
SELECT 'wrapper', regress.outcome($$ALTER FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers 'kafka:9092')$$);
SELECT 'foreign table', regress.outcome('CREATE FOREIGN TABLE regress_foreign (a int) SERVER regress_city OPTIONS (topic ''x'')');

-- nor does it read tables
CREATE FOREIGN TABLE regress_foreign (a int) SERVER regress_city;
SELECT 'read', regress.outcome('SELECT * FROM regress_foreign');
DROP FOREIGN TABLE regress_foreign;

-- by hand
SELECT label, regress.outcome(format('SELECT detect.detect_kafka_validator(%s, %s)', options, catalog))
FROM (VALUES
    ('nothing of no catalog',   'ARRAY[]::text[]',           '0'),
    ('no options',              'ARRAY[]::text[]',           '''pg_foreign_server''::regclass'),
    ('null among them',         'ARRAY[NULL]',               '''pg_foreign_server''::regclass'),
    ('no value',                'ARRAY[''bootstrap_servers'']', '''pg_foreign_server''::regclass'),
    ('twice',                   'ARRAY[''bootstrap_servers=a'', ''bootstrap_servers=b'']', '''pg_foreign_server''::regclass'),
    ('other catalog',           'ARRAY[''a=b'']',            '''pg_class''::regclass'),
    ('null',                    'NULL',                      'NULL')) v (label, options, catalog);

-- who may
CREATE ROLE regress_server_stranger;
SET ROLE regress_server_stranger;
SELECT 'stranger', regress.outcome($$CREATE SERVER regress_refused FOREIGN DATA WRAPPER detect_kafka OPTIONS (bootstrap_servers 'kafka:9092')$$);
SELECT 'stranger', regress.outcome('CREATE USER MAPPING FOR CURRENT_USER SERVER regress_city');
SELECT 'stranger', regress.outcome('SELECT detect.detect_kafka_validator(ARRAY[]::text[], 0)');
RESET ROLE;

\pset tuples_only off
\pset format aligned
DROP SERVER regress_city;
DROP ROLE regress_server_admin, regress_server_reader, regress_server_stranger;
